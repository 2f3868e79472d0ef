// A picture of the comparison sheet in full size over the page; the arrow keys walk through the steps and the strengths.
(() => {
    "use strict";
    if (window.loraExtViewer) return;

    const {page, make, t} = window.loraExt;
    const {button} = window.loraExtChoose;
    const {sheet, neighbour, words, load, ofCell, columnFile} = window.loraExtSheet;

    window.loraExtViewer = (row, column) => {
        const view = sheet.view;
        let at = [row, column];
        let address = "";
        const dialog = make("dialog", "lora-ext-viewer");
        const [picture, said] = [make("img"), make("p")];
        said.setAttribute("aria-live", "polite");

        async function present() {
            const one = sheet.cells[at[0]]?.[at[1]];
            if (!one) return dialog.close(); // another sheet was begun
            said.textContent = picture.alt = words(view, ...at);
            choose.hidden = !columnFile(view.columns[at[1]]) || !view.rows[at[0]].strength;
            arrows.forEach(([key, arrow]) => { arrow.disabled = !neighbour(...at, key); });
            if (one.picture.src) picture.src = one.picture.src;
            const whole = await load(`sheet/pictures/${one.id}.png`);
            if (sheet.cells[at[0]]?.[at[1]] !== one || !dialog.isConnected) return URL.revokeObjectURL(whole);
            if (address) URL.revokeObjectURL(address);
            address = whole;
            if (whole) picture.src = whole;
            return undefined;
        }

        function go(key) {
            at = neighbour(...at, key) ?? at;
            present();
        }

        const arrow = (key, sign, label) => {
            const made = button(sign, "", () => go(key));
            made.setAttribute("aria-label", label);
            return [key, made];
        };
        const arrows = [
            arrow("ArrowLeft", "←", t("Earlier step")), arrow("ArrowRight", "→", t("Later step")),
            arrow("ArrowUp", "↑", t("The strength above")), arrow("ArrowDown", "↓", t("The strength below")),
        ];
        const choose = button(t("Choose this one"), "lora-ext-choose-go", () => {
            const wanted = ofCell(view, ...at);
            dialog.close();
            window.loraExtPick?.(wanted);
        });
        const close = button(t("Close"), "", () => dialog.close());
        dialog.addEventListener("keydown", (event) => {
            if (!event.key.startsWith("Arrow")) return;
            event.preventDefault();
            go(event.key);
        });
        dialog.addEventListener("click", (event) => {
            if (event.target === dialog) dialog.close();
        });
        dialog.addEventListener("close", () => {
            if (address) URL.revokeObjectURL(address);
            dialog.remove();
            sheet.cells[at[0]]?.[at[1]]?.button.focus();
        });
        dialog.setAttribute("aria-label", t("Picture of the sheet"));
        const bar = make("div", "lora-ext-viewer-bar");
        bar.append(...arrows.map(([, made]) => made), said, choose, close);
        dialog.append(picture, bar);
        page().querySelector("#lora_ext").append(dialog);
        dialog.showModal();
        close.focus();
        present();
    };
})();
