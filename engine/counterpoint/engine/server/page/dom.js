// Small helpers for making elements. Text is always a text node: nothing that anyone wrote is
// ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element of that id. Throws where the page lacks it. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children);
  return node;
}

/** An HTML element with attributes and children (elements or strings). */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Sets text only where it differs, so that nothing is announced or laid out twice. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Shows or hides. */
export function show(node, visible) {
  node.hidden = !visible;
}

let numbers = 0;

/** An id that is new on this page. */
export function newId(prefix) {
  numbers += 1;
  return `${prefix}-${numbers}`;
}
