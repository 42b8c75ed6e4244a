// Snippets as VS Code expands them; `editor/suite.js` holds this against VS Code itself.

/** The text that a snippet writes if nothing is changed in it. */
function expansion(body) {
  const text = [body].flat().join("\n");
  const values = new Map();
  let at = 0;
  /** Up to an unescaped sign of `ends`. */
  const read = (ends) => {
    let out = "";
    while (at < text.length && !ends.includes(text[at])) {
      if (/^\\[$}\\]/.test(text.slice(at))) {
        out += text[at + 1];
        at += 2;
      } else if (/^\$\d/.test(text.slice(at))) {
        const [written, number] = text.slice(at).match(/^\$(\d+)/);
        at += written.length;
        out += values.get(number) ?? "";
      } else if (text.startsWith("${", at)) {
        const [written, number, kind] = text.slice(at).match(/^\$\{(\d+)([:|])/);
        at += written.length;
        const value = kind === ":" ? read("}") : choice();
        at += 1;
        values.set(number, value);
        out += value;
      } else {
        out += text[at++];
      }
    }
    return out;
  };
  /** The first of `a,b|`; a bar inside it is escaped. */
  const choice = () => {
    const end = text.indexOf("|}", at);
    const first = text.slice(at, end).split(/(?<!\\),/)[0].replace(/\\(.)/g, "$1");
    at = end + 1;
    return first;
  };
  return read("");
}

module.exports = { expansion };
