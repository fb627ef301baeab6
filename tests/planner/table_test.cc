#include "planner/table.h"

#include <catch2/catch.hpp>

namespace reckon::plan {

TEST_CASE("columns align, code points count once, lines end without spaces") {
  const Table t{.columns = {{"name", Align::Left}, {"time"}, {"note", Align::Left}},
                .rows = {{"a", "10.5 s", ""}, {"µ×long", "9 s", "x"}}};
  CHECK(text(t) ==
        "  name      time  note\n"
        "  a       10.5 s\n"
        "  µ×long     9 s  x\n");
}

TEST_CASE("words wrap at the width") {
  CHECK(wrapped("aa bb cc", 1, 6) == " aa bb\n cc\n");
  CHECK(wrapped("toolongforit b", 0, 4) == "toolongforit\nb\n");
  CHECK(wrapped("", 2, 10).empty());
}

}  // namespace reckon::plan
