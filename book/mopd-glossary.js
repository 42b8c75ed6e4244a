// The glossary, one click away on every page.
"use strict";

{
  const buttons = document.querySelector(".right-buttons");
  const link = document.createElement("a");
  // `path_to_root` is mdBook's.
  link.href = `${path_to_root}glossary.html`;
  link.title = "Glossary: the words of this book";
  link.textContent = "Glossary";
  link.style.padding = "0 0.6em";
  link.style.fontSize = "0.8em";
  buttons?.prepend(link);
}
