#!/usr/bin/env python3
"""Tokens per second of reckon's benchmark model in PyTorch, by its public API.

    compare_torch.py [--model FILE] [--seq 4096] [--micro-batch 1] [--steps 8] [--json FILE]
                     [--experts loop|grouped] [--compile] [--tiny]

FILE is a scenario of reckon with an inline DeepSeek-shaped model (MLA, SwiGLU, a dense first layer,
shared and routed experts with a sigmoid router, RMSNorm, untied head). What runs is a training step
in bf16 with fp32 AdamW states: forward, cross-entropy, backward, clipping, update. Attention is
scaled_dot_product_attention; experts are a loop over experts, or torch.nn.functional.grouped_mm
(torch._grouped_mm in older releases). Prints one line of JSON a variant; a variant that this
release of PyTorch can't run says why and the others go on.
"""

import argparse
import json
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as e:
    print(json.dumps({"skipped": f"no PyTorch: {e}"}))
    sys.exit(0)


def shape_of(file):
    """The model of a scenario, in the keys that this script uses."""
    with open(file) as f:
        m = json.load(f)["model"]
    if not isinstance(m, dict):
        sys.exit(f"{file}: /model: expected the model inline, not by name")
    moe, mla = m["moe"], m["mla"]
    layers = m["layers"]
    return {
        "layers": layers, "hidden": m["hidden"], "ffn": m["ffn"], "heads": m["heads"],
        "vocab": m["vocab"], "theta": float(m.get("rope_theta", 10000)),
        "q_lora": mla["q_lora"], "kv_lora": mla["kv_lora"], "nope": mla["qk_nope"],
        "rope": mla["qk_rope"], "v": mla["v"],
        "experts": moe["experts"], "top_k": moe["top_k"], "expert_ffn": moe["ffn"],
        "shared_ffn": moe.get("shared_ffn", 0), "scale": float(moe.get("route_scale", 1)),
        "dense": moe.get("dense_layers", []),
    }


TINY = {"layers": 2, "hidden": 64, "ffn": 128, "heads": 4, "vocab": 256, "theta": 10000.0,
        "q_lora": 32, "kv_lora": 32, "nope": 16, "rope": 8, "v": 16, "experts": 8, "top_k": 2,
        "expert_ffn": 32, "shared_ffn": 32, "scale": 1.0, "dense": [0]}


class Rms(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(n))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-6)


def linear(i, o):
    return torch.nn.Linear(i, o, bias=False)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(torch.nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        h, heads = s["hidden"], s["heads"]
        self.q_down, self.q_norm = linear(h, s["q_lora"]), Rms(s["q_lora"])
        self.q_up = linear(s["q_lora"], heads * (s["nope"] + s["rope"]))
        self.kv_down, self.kv_norm = linear(h, s["kv_lora"] + s["rope"]), Rms(s["kv_lora"])
        self.kv_up = linear(s["kv_lora"], heads * (s["nope"] + s["v"]))
        self.out = linear(heads * s["v"], h)

    def forward(self, x, cos, sin):
        s, (b, t, _) = self.s, x.shape
        q = self.q_up(self.q_norm(self.q_down(x))).view(b, t, s["heads"], -1).transpose(1, 2)
        q_nope, q_rope = q.split([s["nope"], s["rope"]], dim=-1)
        low, k_rope = self.kv_down(x).split([s["kv_lora"], s["rope"]], dim=-1)
        kv = self.kv_up(self.kv_norm(low)).view(b, t, s["heads"], -1).transpose(1, 2)
        k_nope, v = kv.split([s["nope"], s["v"]], dim=-1)
        k_rope = rotate(k_rope.unsqueeze(1), cos, sin).expand(-1, s["heads"], -1, -1)
        q = torch.cat((q_nope, rotate(q_rope, cos, sin)), dim=-1)
        k = torch.cat((k_nope, k_rope), dim=-1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(o.transpose(1, 2).reshape(b, t, -1))


class Mlp(torch.nn.Module):
    def __init__(self, h, f):
        super().__init__()
        self.up, self.down = linear(h, 2 * f), linear(f, h)

    def forward(self, x):
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def grouped_mm(x, w, offsets):
    f = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if f is None:
        raise RuntimeError(f"PyTorch {torch.__version__} has no grouped_mm")
    return f(x, w, offs=offsets)


class Experts(torch.nn.Module):
    def __init__(self, s, grouped):
        super().__init__()
        self.s, self.grouped = s, grouped
        e, h, f = s["experts"], s["hidden"], s["expert_ffn"]
        self.router = linear(h, e)
        self.up = torch.nn.Parameter(torch.empty(e, h, 2 * f))
        self.down = torch.nn.Parameter(torch.empty(e, f, h))
        self.register_buffer("bias", torch.zeros(e))
        self.shared = Mlp(h, s["shared_ffn"]) if s["shared_ffn"] > 0 else None

    def forward(self, x):
        s, shape = self.s, x.shape
        x = x.reshape(-1, s["hidden"])
        scores = torch.sigmoid(F.linear(x.float(), self.router.weight.float()))
        chosen = (scores + self.bias).topk(s["top_k"], dim=-1).indices
        weight = scores.gather(1, chosen)
        weight = weight / weight.sum(-1, keepdim=True) * s["scale"]
        flat = chosen.reshape(-1)
        order = flat.argsort(stable=True)
        token = order // s["top_k"]
        counts = torch.bincount(flat, minlength=s["experts"])
        rows, w = x[token], weight.reshape(-1)[order].to(x.dtype).unsqueeze(-1)
        if self.grouped:
            offsets = counts.cumsum(0).to(torch.int32)
            gate, up = grouped_mm(rows, self.up, offsets).chunk(2, dim=-1)
            out = grouped_mm(F.silu(gate) * up * w, self.down, offsets)
        else:
            parts = []
            for e, part in enumerate(rows.split(counts.tolist())):
                gate, up = (part @ self.up[e]).chunk(2, dim=-1)
                parts.append((F.silu(gate) * up) @ self.down[e])
            out = torch.cat(parts) * w
        y = torch.zeros_like(x).index_add_(0, token, out)
        if self.shared is not None:
            y = y + self.shared(x)
        return y.view(shape)


class Layer(torch.nn.Module):
    def __init__(self, s, dense, grouped):
        super().__init__()
        self.norm1, self.norm2 = Rms(s["hidden"]), Rms(s["hidden"])
        self.attention = Attention(s)
        self.mlp = Mlp(s["hidden"], s["ffn"]) if dense else Experts(s, grouped)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Model(torch.nn.Module):
    def __init__(self, s, grouped):
        super().__init__()
        self.s = s
        self.embedding = torch.nn.Embedding(s["vocab"], s["hidden"])
        self.layers = torch.nn.ModuleList(
            Layer(s, i in s["dense"], grouped) for i in range(s["layers"]))
        self.norm, self.head = Rms(s["hidden"]), linear(s["hidden"], s["vocab"])
        for p in self.parameters():
            if p.dim() > 1:
                torch.nn.init.normal_(p, std=0.02)

    def forward(self, ids, target):
        t, d = ids.shape[1], self.s["rope"] // 2
        inverse = self.s["theta"] ** (-torch.arange(d, device=ids.device) / d)
        angle = torch.arange(t, device=ids.device)[:, None] * inverse
        x = self.embedding(ids)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten())


class Trainer:
    """bf16 weights with fp32 masters, as reckon keeps them."""

    def __init__(self, model):
        self.weights = list(model.parameters())
        self.masters = [p.detach().float().clone() for p in self.weights]
        for m in self.masters:
            m.requires_grad_(True)
        fused = {"fused": True} if self.masters[0].is_cuda else {}
        self.adam = torch.optim.AdamW(self.masters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1,
                                      **fused)

    def update(self):
        for m, p in zip(self.masters, self.weights):
            m.grad = p.grad.float() if p.grad is not None else None
            p.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.masters)


def measure(s, args, grouped, compiled):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    model = Model(s, grouped).to(device=device, dtype=torch.bfloat16)
    trainer = Trainer(model)
    run = torch.compile(model) if compiled else model
    ids = torch.randint(s["vocab"], (args.micro_batch, args.seq + 1), device=device)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    times, loss = [], None
    for step in range(args.warm + args.steps):
        wait()
        start = time.perf_counter()
        for _ in range(args.micro_batches):
            loss = run(ids[:, :-1], ids[:, 1:]) / args.micro_batches
            loss.backward()
        trainer.update()
        wait()
        if step >= args.warm:
            times.append(time.perf_counter() - start)
    times.sort()
    seconds = times[len(times) // 2]
    tokens = args.micro_batch * args.micro_batches * args.seq
    return {"tokens_per_s": tokens / seconds, "step_s": seconds,
            "loss": loss.item() * args.micro_batches,
            "parameters": sum(p.numel() for p in model.parameters()),
            "peak_GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model")
    p.add_argument("--seq", type=int, default=4096)
    p.add_argument("--micro-batch", type=int, default=1)
    p.add_argument("--micro-batches", type=int, default=1)
    p.add_argument("--warm", type=int, default=3)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--variants", default="loop,grouped,loop+compile,grouped+compile")
    p.add_argument("--tiny", action="store_true", help="a few layers of 64, to try the script")
    p.add_argument("--json")
    args = p.parse_args()
    if args.tiny:
        s, args.seq = TINY, min(args.seq, 64)
    elif args.model:
        s = shape_of(args.model)
    else:
        p.error("--model FILE or --tiny")
    results = []
    for variant in args.variants.split(","):
        r = {"variant": variant, "torch": torch.__version__,
             "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
        try:
            r.update(measure(s, args, "grouped" in variant, "compile" in variant))
        except Exception as e:  # another variant may run
            r["failed"] = f"{type(e).__name__}: {e}"[:300]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        print(json.dumps(r), flush=True)
        results.append(r)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)
    return 0 if any("failed" not in r for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
