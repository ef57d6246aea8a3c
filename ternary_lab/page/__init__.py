"""A run as one HTML file: the map of its operations at every kept epoch, with its networks, for any browser.

`data` collects what a page holds of a run. `build` writes the page. `explorer.js` draws it: a module of plain
JavaScript that needs no library, no server and no network.
The package may import the core, `metrics` and `runs`, and no package of an extra.
"""
