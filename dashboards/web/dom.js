// A page as a function of its data: `h` describes, `render` changes only what differs, so that focus,
// selection and open details survive an update every second.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open"]);

export function h(tag, props, ...children) {
  const { key, ...rest } = props ?? {};
  return { tag, key, props: rest, children: flat(children) };
}

export function render(parent, ...wanted) {
  reconcile(parent, flat(wanted), parent.namespaceURI === SVG);
}

function flat(children) {
  const found = [];
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === true) continue;
    found.push(typeof child === "object" ? child : String(child));
  }
  return found;
}

function reconcile(parent, wanted, svg) {
  const keyed = new Map();
  for (const node of parent.childNodes) if (node.vKey !== undefined) keyed.set(node.vKey, node);
  let at = parent.firstChild;
  for (const next of wanted) {
    const node = typeof next === "string" ? textFor(at, next) : elementFor(at, next, keyed, svg);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
    if (typeof next !== "string") update(node, next, svg || next.tag === "svg");
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function textFor(at, text) {
  if (at?.nodeType !== Node.TEXT_NODE) return document.createTextNode(text);
  if (at.data !== text) at.data = text;
  return at;
}

function elementFor(at, next, keyed, svg) {
  const known = next.key === undefined ? at : keyed.get(next.key);
  if (known?.nodeType === Node.ELEMENT_NODE && known.localName === next.tag && known.vKey === next.key) {
    return known;
  }
  const made =
    svg || next.tag === "svg" ? document.createElementNS(SVG, next.tag) : document.createElement(next.tag);
  made.vKey = next.key;
  return made;
}

function update(node, next, svg) {
  const before = node.vProps ?? {};
  for (const name of Object.keys(before)) if (!(name in next.props)) set(node, name, null, before[name]);
  for (const [name, value] of Object.entries(next.props)) {
    if (before[name] !== value || PROPERTIES.has(name)) set(node, name, value, before[name]);
  }
  node.vProps = next.props;
  reconcile(node, next.children, svg && next.tag !== "foreignObject");
}

function set(node, name, value, before) {
  if (name.startsWith("on")) node[name.toLowerCase()] = value;
  else if (name === "style") restyle(node, value ?? {}, before ?? {});
  else if (PROPERTIES.has(name)) {
    if (node[name] !== (value ?? false)) node[name] = value ?? false;
  } else if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}

// By way of the style object: the Content-Security-Policy allows no style attributes.
function restyle(node, value, before) {
  for (const name of Object.keys(before)) if (!(name in value)) node.style.removeProperty(name);
  for (const [name, text] of Object.entries(value)) {
    if (before[name] !== text) node.style.setProperty(name, text);
  }
}
