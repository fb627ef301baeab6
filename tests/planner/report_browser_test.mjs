// A report in headless Chromium: no error, no request, and what a reader does with it works.
//
//   node report_browser_test.mjs PAGE.html[,OTHER.html...] CHROMIUM PLAYWRIGHT_CORE [SCREENSHOTS]
//
// PAGE: of plan or simulate. OTHER: of any command; what all pages have in common is tested.
// PLAYWRIGHT_CORE: folder of the npm package. SCREENSHOTS: folder for pictures to look at.
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const [page_files, chromium_path, package_folder, screenshots] = process.argv.slice(2);
const {chromium} = createRequire(import.meta.url)(path.resolve(package_folder));
const [first, ...others] = page_files.split(",").map((file) => pathToFileURL(path.resolve(file)).href);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "reckon-browser-"));

const browser = await chromium.launch({executablePath: chromium_path, args: ["--no-sandbox"]});
const complaints = [];

async function open(options, address = first) {
  const context = await browser.newContext({acceptDownloads: true, ...options});
  const page = await context.newPage();
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && complaints.push(m.text()));
  page.on("pageerror", (e) => complaints.push(String(e)));
  page.on("request", (r) => {
    if (r.url() !== address && !/^(data|blob):/.test(r.url())) complaints.push("request: " + r.url());
  });
  await page.goto(address);
  return page;
}
async function shot(page, name, full = true) {
  if (screenshots) await page.screenshot({path: path.join(screenshots, name + ".png"), fullPage: full});
}
const fits = (page) => page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);
const another = async (select) => select.selectOption(await select.inputValue() === "1" ? "0" : "1");
// Every box that draws, with what it draws.
const paths = (page, id) => page.evaluate((i) => document.querySelectorAll(`#${i} path, #${i} rect, #${i} line`).length, id);
const domain = (page) => page.evaluate(() => [...document.querySelectorAll("#timeline-figure .tick text")].map((t) => t.textContent).join("|"));

async function sorts(page) {
  const column = (n) => page.evaluate((i) => [...document.querySelectorAll(`#plans tbody tr`)].map((r) => r.children[i].textContent), n);
  const heads = await page.evaluate(() => [...document.querySelectorAll("#plans thead th")].map((t) => t.textContent));
  const memory = heads.indexOf("memory");
  const before = await column(memory);
  assert.ok(before.length > 2, "plans to sort");
  const button = page.locator("#plans thead button").nth(memory);
  const number = (text) => parseFloat(text) * (text.includes("GiB") ? 1024 : 1);
  await button.click();
  const up = (await column(memory)).map(number);
  assert.deepEqual(up, [...up].sort((a, b) => a - b), "ascending");
  assert.equal(await page.locator("#plans th[aria-sort=ascending]").count(), 1);
  await button.press("Enter");  // the keyboard sorts too
  const down = (await column(memory)).map(number);
  assert.deepEqual(down, [...down].sort((a, b) => b - a), "descending");
  assert.equal(await page.locator("#plans th[aria-sort=descending]").count(), 1);
}

async function zooms(page) {
  const whole = await domain(page);
  await page.locator("[data-zoom='zoom in']").click();
  const closer = await domain(page);
  assert.notEqual(closer, whole, "the button zooms");
  await page.locator("[data-zoom='later']").click();
  assert.notEqual(await domain(page), closer, "the button pans");
  await page.locator("[data-zoom='whole step']").click();
  assert.equal(await domain(page), whole, "back to the whole step");
  const figure = page.locator("#timeline-figure");
  await figure.focus();
  await page.keyboard.press("+");
  assert.notEqual(await domain(page), whole, "a key zooms");
  await page.keyboard.press("0");
  assert.equal(await domain(page), whole);
  const box = await figure.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + 20);
  await page.mouse.wheel(0, -200);
  assert.equal(await domain(page), whole, "the wheel alone is the page's");
  await figure.scrollIntoViewIfNeeded();
  const now = await figure.boundingBox();
  await page.mouse.move(now.x + now.width / 2, now.y + 20);
  await page.keyboard.down("Control");
  await page.mouse.wheel(0, -300);
  await page.keyboard.up("Control");
  assert.notEqual(await domain(page), whole, "Ctrl and wheel zoom");
  for (let i = 0; i < 5; ++i) await page.locator("[data-zoom='zoom in']").click();
  await page.mouse.move(now.x + now.width / 2, now.y + 18);
  await page.mouse.move(now.x + now.width / 2 + 2, now.y + 18);
  assert.match(await page.locator("#tip").textContent(), /stage 0/, "a pointer is told what it is on");
  await shot(page, "zoomed", false);
  await page.locator("[data-zoom='whole step']").click();
}

async function themes(page) {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const before = await ground();
  await page.locator("#theme").click();
  assert.notEqual(await ground(), before, "the theme changes");
  const ink = await page.evaluate(() => document.querySelector("#timeline-figure rect[fill]").getAttribute("fill"));
  assert.ok(ink, "figures are drawn again");
  await page.locator("#theme").click();
  assert.equal(await ground(), before);
}

// Tab reaches every control, in the order of the page, with a visible focus.
async function tabs(page) {
  await page.reload();  // focus starts at the top
  const expected = await page.evaluate(() => document.querySelectorAll(
    "a[href], button, select, summary, svg[tabindex='0'], .scroll[tabindex='0']").length);
  const hidden = await page.evaluate(() => [...document.querySelectorAll("details:not([open]) .scroll, details:not([open]) button")].length);
  let last = -1, seen = 0, first = null;
  for (let i = 0; i < expected + 5; ++i) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const e = document.activeElement;
      if (e === document.body) return null;
      const all = [...document.querySelectorAll("*")];
      return {index: all.indexOf(e), name: e.getAttribute("aria-label") || e.textContent.trim(), outline: getComputedStyle(e).outlineStyle, href: e.getAttribute("href")};
    });
    if (at === null) break;
    if (first === null) first = at;
    if (at.index <= last) break;
    assert.ok(at.name, "what has focus has a name");
    assert.notEqual(at.outline, "none", `focus on "${at.name}" is seen`);
    last = at.index;
    ++seen;
  }
  assert.equal(first.href, "#main", "the first stop skips to the answer");
  assert.ok(seen >= expected - hidden - 1, `tab stops: ${seen} of ${expected - hidden}`);
}

async function exports(page) {
  const ids = await page.evaluate(() => [...document.querySelectorAll("svg[data-figure][role=img]")].map((s) => s.dataset.figure));
  for (const id of ids)
    for (const ending of ["svg", "png"]) {
      const [download] = await Promise.all([page.waitForEvent("download"), page.locator(`#${id} [data-export=${ending}]`).click()]);
      assert.match(download.suggestedFilename(), new RegExp(`-${id}\\.${ending}$`));
      const file = path.join(folder, download.suggestedFilename());
      await download.saveAs(file);
      const bytes = fs.readFileSync(file);
      if (ending === "png") {
        assert.equal(bytes.subarray(1, 4).toString(), "PNG");
        assert.ok(bytes.readUInt32BE(16) > 500 && bytes.length > 2000, `${id}: a picture of some size`);
      } else {
        const text = bytes.toString();
        assert.ok(text.startsWith("<svg") && text.includes("xmlns="), `${id}: stands alone`);
        assert.doesNotMatch(text, /var\(--|class="(?!tick|domain|chosen)/, `${id}: needs no style sheet`);
      }
      if (screenshots) fs.copyFileSync(file, path.join(screenshots, path.basename(file)));
    }
  return ids;
}

try {
  const page = await open({viewport: {width: 1280, height: 900}, colorScheme: "light"});
  assert.ok(await fits(page), "no sideways scrolling on a desktop");
  const figures = await exports(page);
  for (const id of ["use", "timeline", "memory", "roofline", "evidence"]) assert.ok(figures.includes(id), id);
  for (const id of figures) assert.ok(await paths(page, id + "-figure") > 1, `${id} draws something`);
  // Every figure has a name in words and its numbers as a table.
  for (const id of figures) {
    assert.match(await page.locator(`#${id}-figure`).getAttribute("aria-label"), /\S+\. \S+/);
    assert.ok(await page.locator(`#${id} table`).count() > 0, `${id} as a table`);
  }
  if (await page.locator("#plans").count() > 0) await sorts(page);
  await zooms(page);
  await themes(page);
  await tabs(page);
  if (await page.locator("#stage option").count() > 1) {
    const before = await page.locator("#memory-figure").innerHTML();
    await another(page.locator("#stage"));
    assert.ok(await page.locator("#memory-figure").innerHTML() !== before, "another stage");
  }
  await page.reload();
  await shot(page, "light");

  const night = await open({viewport: {width: 1280, height: 900}, colorScheme: "dark"});
  assert.equal(await night.evaluate(() => document.documentElement.dataset.theme), "dark", "follows the reader's setting");
  await shot(night, "dark");

  const phone = await open({viewport: {width: 360, height: 740}, isMobile: true, hasTouch: true, deviceScaleFactor: 2});
  assert.ok(await fits(phone), "no sideways scrolling on a phone");
  await phone.locator("summary").first().tap();
  assert.ok(await fits(phone), "nor with a table open");
  await shot(phone, "phone");

  for (const address of others) {
    const name = path.basename(address, ".html");
    const other = await open({viewport: {width: 1280, height: 900}, colorScheme: "light"}, address);
    assert.ok(await fits(other), `${name}: no sideways scrolling on a desktop`);
    const its = await exports(other);
    for (const id of its) {
      assert.ok(await paths(other, id + "-figure") > 3, `${name}: ${id} draws something`);
      assert.match(await other.locator(`#${id}-figure`).getAttribute("aria-label"), /\S+\. \S+/);
    }
    assert.ok(await other.locator("table").count() > 0, `${name}: numbers as a table`);
    for (const select of await other.locator("select:not(#stage)").all()) {  // another metric, another figure
      const figure = other.locator(`section:has(#${await select.getAttribute("id")}) svg[role=img]`);
      const before = await figure.innerHTML();
      await another(select);
      assert.ok(await figure.innerHTML() !== before, `${name}: another choice`);
    }
    const sort = other.locator("thead button").first();
    if (await sort.count() > 0 && await sort.isVisible()) {
      await sort.click();
      assert.equal(await other.locator("th[aria-sort=ascending]").count(), 1, `${name}: sorts`);
    }
    await shot(other, name + "-light");
    const small = await open({viewport: {width: 360, height: 740}, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: "dark"}, address);
    assert.ok(await fits(small), `${name}: no sideways scrolling on a phone`);
    await shot(small, name + "-phone-dark");
    figures.push(...its);
  }
  assert.deepEqual(complaints, [], "no error, no request");
  console.log(`ok: ${1 + others.length} pages, ${figures.length} figures`);
} finally {
  await browser.close();
  fs.rmSync(folder, {recursive: true});
}
