// Folds the code of a notebook's page. A reader opens one cell by its summary.
window.document$.subscribe(() => {
  for (const code of document.querySelectorAll(".jp-CodeCell > .jp-Cell-inputWrapper")) {
    if (code.closest("details.code")) continue;
    const details = document.createElement("details");
    details.className = "code";
    const summary = document.createElement("summary");
    summary.textContent = "code";
    code.replaceWith(details);
    details.append(summary, code);
  }
});
