// What the theme leaves out for screen readers and keyboards.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll('.caption[role="heading"]').forEach((each) => each.setAttribute("aria-level", "2"));
  document.querySelectorAll('pre, .table-wrapper, p:has(> img[src$="command-line.svg"])').forEach((each) => each.setAttribute("tabindex", "0"));
  document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "Pages");
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
});
