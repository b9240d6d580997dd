// A page whose script is loaded when it is first shown.

import { notice } from "../parts/basics.js";
import { Component, html } from "../vendor/preact.js";

// `load` gives the module; `name` is the component that it exports.
export function later(load, name) {
  let known = null;
  return class extends Component {
    async componentDidMount() {
      if (known) return;
      try {
        known = (await load())[name];
        this.setState({});
      } catch (_error) {
        this.setState({ failed: true });
      }
    }

    render({ children, ...given }, { failed }) {
      if (known) return html`<${known} ...${given} />`;
      if (!failed) return html`<p class="empty">Loading…</p>`;
      const again = html`<button class="quiet" type="button" onClick=${() => location.reload()}>Reload the page</button>`;
      return notice("bad", "This page could not be loaded", "The gateway was upgraded, or does not respond.", again);
    }
  };
}
