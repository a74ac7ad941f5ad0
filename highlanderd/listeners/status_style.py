"""How the status page looks: readable on a telephone and on a wall, by day and by night, without any script."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --ground: #f5f6f8; --card: #fff; --line: #dfe3e8; --text: #1c2430; --quiet: #5b6675;
  --good: #16693a; --good-ground: #e0f3e6; --warn: #7a4b00; --warn-ground: #fdf0d2;
  --bad: #a11b1b; --bad-ground: #fde4e2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #12161c; --card: #1b212a; --line: #303844; --text: #e4e9f0; --quiet: #9aa6b5;
    --good: #7fd6a0; --good-ground: #163524; --warn: #f2c66d; --warn-ground: #3a2c0d;
    --bad: #ff9d95; --bad-ground: #451b1a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--ground); color: var(--text);
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere;
}
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; }
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0; }
a { color: inherit; }
.quiet, time { color: var(--quiet); }
.badge { display: inline-block; padding: 0 .5rem; border-radius: 1rem; font-size: .875rem; }
.good { color: var(--good); background: var(--good-ground); }
.warn { color: var(--warn); background: var(--warn-ground); }
.bad { color: var(--bad); background: var(--bad-ground); }
ul.notes { list-style: none; margin: .75rem 0 0; padding: 0; display: grid; gap: .4rem; }
ul.notes li { padding: .35rem .75rem; border-radius: .5rem; }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line); }
th, td { text-align: left; vertical-align: top; padding: .5rem .75rem; border-top: 1px solid var(--line); }
td { white-space: nowrap; }
td.wide { white-space: normal; }
thead th { border-top: 0; color: var(--quiet); font-size: .8125rem; font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; min-width: 10.5rem; }
td p { margin: 0 0 .2rem; }
footer {
  margin: 1.75rem 0 0; font-size: .875rem; color: var(--quiet); display: flex; flex-wrap: wrap; gap: .25rem 1rem;
}
@media (max-width: 44rem) {
  table, tbody, tr, th, td { display: block; width: 100%; }
  thead { display: none; }
  table { background: none; border: 0; }
  tr {
    background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
    margin: 0 0 .6rem; padding: .5rem .75rem;
  }
  th, td { border: 0; padding: .1rem 0; }
  td, td.wide { display: grid; grid-template-columns: 8.5rem 1fr; gap: .5rem; white-space: normal; }
  td::before { content: attr(data-label); color: var(--quiet); }
  td.empty { display: none; }
}
"""
