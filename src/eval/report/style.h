// The style sheet of reports.
#pragma once

#include <string_view>

namespace tq::report {

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --page:#fbfbfa; --card:#fff; --ink:#1d2330; --dim:#5d6675; --rule:#e3e5ea; --axis:#9aa2b1;
  --s0:#2a6fdb; --s1:#d9730d; --s2:#178f6b; --s3:#a644b5; --s4:#c23b4b; --s5:#7a6a1f; --s6:#3b9cc4; --s7:#6b7280; --s8:#8fb02a; --base:#a3abb8;
  --h0:#e4eefb; --h1:#c5dbf7; --h2:#a0c4f1; --h3:#78aae9; --h4:#4a86d8; --h5:#2b66b8; --h6:#1c4a8c; --light-ink:#1d2330; --dark-ink:#fff; }
@media (prefers-color-scheme: dark) { :root { --page:#14171c; --card:#1b1f26; --ink:#e8eaee; --dim:#a0a8b6; --rule:#2d333d; --axis:#6b7484;
  --s0:#6ea8ff; --s1:#f2a154; --s2:#4cc9a0; --s3:#d08be0; --s4:#f0808d; --s5:#d3c063; --s6:#76c9ea; --s7:#aab2bf; --s8:#c0dd63; --base:#6b7484;
  --h0:#1e2c42; --h1:#24406a; --h2:#2b5590; --h3:#336bb5; --h4:#5c93dc; --h5:#8cb7f0; --h6:#c0d9fa; --light-ink:#e8eaee; --dark-ink:#10141a; } }
* { box-sizing: border-box; }
body { margin:0; padding:2.5rem 1rem 4rem; background:var(--page); color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif; }
main { max-width:54rem; margin:0 auto; }
h1 { font-size:1.75rem; line-height:1.2; margin:0 0 .3rem; letter-spacing:-.01em; }
h2 { font-size:1.15rem; margin:0 0 .2rem; }
h3 { font-size:.95rem; margin:1.2rem 0 .4rem; }
p { margin:.2rem 0 .8rem; } .sub, .note { color:var(--dim); } .note { font-size:.9rem; }
section { background:var(--card); border:1px solid var(--rule); border-radius:12px; padding:1.2rem 1.4rem; margin:1.2rem 0; overflow-x:auto; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(9.4rem,1fr)); gap:.8rem; margin:1.4rem 0; }
.tile { background:var(--card); border:1px solid var(--rule); border-radius:12px; padding:.8rem 1rem; }
.tile b { display:block; font-size:1.5rem; line-height:1.25; font-variant-numeric:tabular-nums; } .tile span { color:var(--dim); font-size:.85rem; }
section > svg { display:block; width:100%; min-width:34rem; height:auto; }
svg text { font-size:12.5px; fill:var(--ink); } svg text.dim { fill:var(--dim); font-size:11.5px; } svg text.value { font-variant-numeric:tabular-nums; }
svg text.on-dark { fill:var(--dark-ink); font-size:11px; } svg text.on-light { fill:var(--light-ink); font-size:11px; }
.grid { stroke:var(--rule); } .axis { stroke:var(--axis); } .whisker { stroke:var(--ink); stroke-width:1.4; }
.stroke { fill:none !important; stroke-width:2; stroke-linejoin:round; } .dot { fill-opacity:.85; }
.s0{fill:var(--s0);stroke:var(--s0)} .s1{fill:var(--s1);stroke:var(--s1)} .s2{fill:var(--s2);stroke:var(--s2)} .s3{fill:var(--s3);stroke:var(--s3)}
.s4{fill:var(--s4);stroke:var(--s4)} .s5{fill:var(--s5);stroke:var(--s5)} .s6{fill:var(--s6);stroke:var(--s6)} .s7{fill:var(--s7);stroke:var(--s7)} .s8{fill:var(--s8);stroke:var(--s8)}
.base{fill:var(--base)} rect,circle{stroke:none !important}
.h0{fill:var(--h0)} .h1{fill:var(--h1)} .h2{fill:var(--h2)} .h3{fill:var(--h3)} .h4{fill:var(--h4)} .h5{fill:var(--h5)} .h6{fill:var(--h6)}
.legend { display:flex; flex-wrap:wrap; gap:.2rem 1.1rem; font-size:.88rem; margin:.4rem 0 .6rem; } .legend span { display:inline-flex; align-items:center; }
.mark { width:.75rem; height:.75rem; margin-right:.4rem; }
table { border-collapse:collapse; width:100%; font-size:.92rem; font-variant-numeric:tabular-nums; }
th, td { text-align:right; padding:.35rem .6rem; border-bottom:1px solid var(--rule); white-space:nowrap; } th { color:var(--dim); font-weight:600; white-space:normal; vertical-align:bottom; }
th:first-child, td:first-child { text-align:left; } tr:last-child td { border-bottom:0; } th[colspan] { padding-top:.9rem; color:var(--ink); }
td small, .note small { color:var(--dim); } .void { color:var(--dim); font-style:italic; } .band { stroke-width:1.6; stroke-opacity:.45; }
@media (max-width: 40rem) { body { padding:1.2rem .6rem 3rem; } section { padding:1rem .9rem; } h1 { font-size:1.35rem; overflow-wrap:anywhere; } .tiles { grid-template-columns:1fr 1fr; } .tile b { font-size:1.25rem; } }
@media print { body { padding:0; background:#fff; } section, .tile { break-inside:avoid; border-color:#ccc; } section { overflow:visible; } section > svg { min-width:0; } }
details { margin-top:.6rem; } summary { cursor:pointer; color:var(--dim); }
)css";

}  // namespace tq::report
