(() => {
  // Put the real address into the commands, also on a mirror or when opened from a folder on disk.
  const configured = document.body.dataset.base;
  const here = location.protocol === "file:" && configured ? configured : new URL(".", location.href).href;
  for (const node of document.querySelectorAll(".base")) node.textContent = here;
  for (const node of document.querySelectorAll(".unserved")) node.remove();
  if (!navigator.clipboard) return;
  for (const box of document.querySelectorAll(".copy")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  }
})();
