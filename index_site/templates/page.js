(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Put the real address into the commands, also on a mirror or when opened from a folder on disk.
  const { base, root } = document.body.dataset;
  const here = location.protocol === "file:" && base ? base : new URL(root, location.href).href;
  for (const node of all(".base")) node.textContent = here;
  for (const node of all(".unserved")) node.remove();

  // Copy buttons. Without the clipboard, which browsers keep from plain http, the old command copies a selection.
  const spoken = document.body.appendChild(document.createElement("p"));
  spoken.className = "unseen";
  spoken.setAttribute("role", "status");
  const copy = async (code) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(code.textContent).then(() => true, () => false);
    getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  };
  for (const box of all(".copy")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      button.textContent = spoken.textContent = (await copy(box.querySelector("code"))) ? "Copied" : "Not copied";
      setTimeout(() => { button.textContent = "Copy"; spoken.textContent = ""; }, 2000);
    });
    box.append(button);
  }

  // The selector. It finds what the page says of a cell; the cell's name is the fragment of the address.
  const form = document.querySelector("#selector");
  if (!form) return;
  const verdict = document.querySelector("#verdict");
  const fields = form.elements;
  const within = (node) => [...fields].every(({ name, value }) => (node.dataset[name] ?? value).split(" ").includes(value));
  const served = () => {
    const gpu = all("#runs-on [data-sm]").find((node) => node.dataset.sm === fields.sm.value);
    const ran = gpu.dataset.ran.split(" ").filter(Boolean);
    const here = ran.some((name) => name.startsWith(`${fields.torch.value}.`) && name.endsWith(`+${fields.cuda.value}`));
    const other = ran.length && !here ? " This torch and CUDA run the same file; no validation used them." : "";
    const [kernels, status] = [gpu.querySelector("span"), gpu.querySelector("small")].map((node) => node.textContent);
    const platform = all("#runs-on [data-degree]").find((node) => node.dataset.platform === fields.platform.value);
    if (platform && platform.dataset.degree !== "validated") {
      const proof = platform.querySelector("dd").textContent;
      return [`Served; ${proof}. On this GPU: ${kernels}; in the wheel for another platform, ${status}.`, false];
    }
    return [`Served; ${status}.${other} On this GPU: ${kernels}.`, Boolean(ran.length)];
  };
  const show = () => {
    for (const node of all("[data-slot]")) node.textContent = fields[node.dataset.slot].value;
    const row = all(".cells tbody tr").find(within);
    const exclusion = all("#not-built [data-reason]").find(within);
    for (const node of all(".cells tbody tr")) node.classList.toggle("chosen", node === row);
    document.querySelector("#ways").hidden = !row;
    const reason = exclusion ? exclusion.querySelector("dd").textContent : "no wheel of this release is for it";
    const [text, proven] = row ? served() : [`Not built: ${reason}.`, false];
    verdict.textContent = text;
    verdict.classList.toggle("proven", proven);
  };
  const restore = () => {
    const [, platform, major, minor, torch, cuda, sm] =
      /^#(\w+)-py(\d)(\d+t?)-torch([\d.]+)-(cu\d+)-sm(\w+)$/.exec(location.hash) ?? [];
    const cell = { platform, python: `${major}.${minor}`, torch, cuda, sm };
    for (const field of fields) {
      if ([...field.options].some(({ value }) => value === cell[field.name])) field.value = cell[field.name];
    }
    show();
  };
  form.addEventListener("change", () => {
    const { platform, python, torch, cuda, sm } = Object.fromEntries(new FormData(form));
    history.replaceState(null, "", `#${platform}-py${python.replace(".", "")}-torch${torch}-${cuda}-sm${sm}`);
    show();
  });
  addEventListener("hashchange", restore);
  form.hidden = verdict.hidden = false;
  restore();
})();
