// What mdBook leaves out for people who use a keyboard, a screen reader or a telephone.
"use strict";

{
  // A figure and its interval stay on one line: "0.97 [0.95, 0.98]".
  for (const cell of document.querySelectorAll("td")) {
    if (/^[-−+]?[\d.]+ \[[^\]]*\]$/.test(cell.textContent.trim())) {
      cell.style.whiteSpace = "nowrap";
    }
  }
  // A block of code or a table that is wider than the page scrolls by the keyboard, too.
  const reachable = () => {
    for (const block of document.querySelectorAll("pre > code, .table-wrapper")) {
      if (block.scrollWidth > block.clientWidth) {
        block.tabIndex = 0;
      }
    }
  };
  reachable();
  window.addEventListener("resize", reachable);
  // A label that acts as a button says so.
  document.getElementById("mdbook-sidebar-toggle")?.setAttribute("role", "button");
}
