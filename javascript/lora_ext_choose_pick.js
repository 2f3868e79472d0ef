// One of the saved files is picked: what it shall be called and what its card shall say, and then its way into a prompt.
(() => {
    "use strict";
    if (window.loraExtPick) return;

    const USUAL = 0.8;
    const {send, page, make, t} = window.loraExt;
    const {known, part, button, fileTitle, named, number, answered, showProblems, askSaved} = window.loraExtChoose;

    const stem = (file) => file.replace(/^.*[\\/]/, "").replace(/\.[^.]*$/, "");

    // A name that no saved file has; the finished file, and one that got its name already, may keep it.
    function freeName(run, file) {
        if (file.final || named(file)) return stem(file.file);
        const taken = new Set(known.runs.flatMap((one) => one.files).map((one) => stem(one.file).toLowerCase()));
        const names = [...Array(taken.size + 1).keys()].map((n) => (n ? `${run.name}-best-${n + 1}` : `${run.name}-best`));
        return names.find((name) => !taken.has(name.toLowerCase()));
    }

    function input(type, value, more = {}) {
        const made = make(type === "area" ? "textarea" : "input");
        if (type !== "area") made.type = type;
        return Object.assign(made, {value, ...more});
    }

    function field(name, label, box, hint) {
        const made = make("label", "lora-ext-choose-field");
        made.dataset.field = name;
        made.append(make("span", "", label), box);
        if (hint) made.append(make("small", "lora-ext-choose-hint", hint));
        return made;
    }

    // `wanted`: the file, and where a picture of the sheet was chosen, that and its strength.
    window.loraExtPick = (wanted) => {
        const run = known.runs.find((one) => one.files.some((file) => file.file === wanted.file));
        if (!run) return;
        const file = run.files.find((one) => one.file === wanted.file);
        const others = run.files.filter((one) => one !== file && !named(one)); // what was chosen before stays
        const boxes = {
            name: input("text", freeName(run, file)),
            trigger: input("text", run.trigger),
            strength: input("number", number(wanted.strength || run.strength || USUAL), {step: "0.05", min: "-2", max: "2"}),
            description: input("area", "", {rows: 2}),
        };
        const remove = input("checkbox", "");
        const dialog = make("dialog", "lora-ext-pick");
        const form = make("form");
        let back = document.activeElement; // nobody goes back to it when one is picked
        const title = make("h3", "", t("Choose {0} of “{1}”", fileTitle(file), run.name));
        title.id = "lora_ext_pick_title";
        dialog.setAttribute("aria-labelledby", title.id);
        const trouble = make("p", "lora-ext-problem");
        trouble.setAttribute("role", "alert");
        const buttons = make("div", "lora-ext-asked");
        const go = make("button", "lora-ext-button lora-ext-choose-go", t("Choose"));
        buttons.append(go, button(t("Cancel"), "", () => dialog.close()));
        form.noValidate = true;
        form.append(
            field("name", t("Name"), boxes.name, t("The file, its card and its tag are called so.")),
            field("trigger", t("Trigger words"), boxes.trigger, t("What has to stand in a prompt for it to work.")),
            field("strength", t("Preferred strength"), boxes.strength),
            field("description", t("Description"), boxes.description),
        );
        if (wanted.cell !== undefined && wanted.cell !== null) form.append(cardPicture(wanted));
        if (others.length) form.append(otherSteps(others, remove, go));
        form.append(trouble, buttons);
        dialog.append(title, form);
        form.addEventListener("submit", async (event) => {
            event.preventDefault();
            go.disabled = true;
            trouble.textContent = "";
            const values = {
                file: file.file, name: boxes.name.value.trim(), trigger: boxes.trigger.value.trim(),
                strength: boxes.strength.valueAsNumber, description: boxes.description.value.trim(),
                cell: wanted.cell ?? null, others: remove.checked ? "delete" : "keep",
            };
            try {
                const picked = await answered(send("POST", "pick", values));
                back = null;
                dialog.close();
                drawPicked(picked, stem(file.file), values.trigger);
                refreshCards();
                await askSaved();
            } catch (error) {
                if (!error.problems) throw error;
                trouble.textContent = showProblems(form, error.problems);
            } finally {
                go.disabled = false;
            }
        });
        dialog.addEventListener("close", () => {
            dialog.remove();
            back?.focus?.();
        });
        page().querySelector("#lora_ext").append(dialog);
        dialog.showModal();
        boxes.name.focus();
    };

    function cardPicture(wanted) {
        const made = make("figure", "lora-ext-pick-card");
        const picture = make("img");
        Object.assign(picture, {src: wanted.picture, alt: ""});
        made.append(picture, make("figcaption", "", t("This becomes the picture of its card.")));
        return made;
    }

    // Off by default, and what would be gone is named.
    function otherSteps(others, remove, go) {
        const made = make("div", "lora-ext-pick-others");
        const label = make("label");
        const size = (others.reduce((sum, one) => sum + one.bytes, 0) / 2 ** 20).toFixed(1);
        label.append(remove, make("span", "", t("Delete the other saved steps of this run ({0} files, {1} MB)", others.length, size)));
        const list = make("ul");
        list.tabIndex = 0; // it may be long: the keyboard scrolls it
        list.append(...others.map((one) => make("li", "", one.file)));
        list.append(make("li", "lora-ext-choose-hint", t("Those with notes or a picture of their own stay.")));
        list.hidden = true;
        remove.addEventListener("change", () => {
            list.hidden = !remove.checked;
            go.textContent = remove.checked ? t("Choose, delete the others") : t("Choose");
            go.classList.toggle("lora-ext-danger", remove.checked);
        });
        made.append(label, list);
        return made;
    }

    // ---- what can be done with it -----------------------------------------------------------------------------

    const promptBox = () => page().querySelector("#txt2img_prompt textarea");

    function drawPicked(picked, before, trigger) {
        const home = part("picked");
        const said = make("p", "lora-ext-told");
        said.setAttribute("role", "status");
        const tell = (text) => { said.textContent = text; };
        const line = make("p");
        line.append(make("span", "", t("“{0}” is chosen. Its tag for a prompt:", picked.name)), " ", make("code", "", picked.tag));
        const copy = async () => tell((await copied(picked.prompt)) ? t("Copied.") : t("The browser did not allow it."));
        const buttons = make("div", "lora-ext-choose-line");
        const first = promptBox()
            ? button(t("Send to txt2img"), "lora-ext-choose-go", () => sendToPrompt(picked, [picked.name, before], trigger))
            : null;
        const deleted = picked.deleted ?? [];
        if (deleted.length) line.append(" ", make("span", "", t("Deleted: {0}", deleted.join(", "))));
        buttons.append(...[first, button(t("Copy tag and trigger words"), "", copy), said].filter(Boolean));
        home.replaceChildren(line, buttons);
        home.hidden = false;
        home.scrollIntoView({block: "nearest", behavior: "smooth"});
        buttons.firstElementChild.focus();
    }

    // Pages that are not from this machine or by https have no clipboard but the old one.
    async function copied(text) {
        try {
            await navigator.clipboard.writeText(text);
            return true;
        } catch {
            const box = input("area", text);
            const back = document.activeElement;
            part("picked").append(box);
            box.select();
            const done = document.execCommand("copy");
            box.remove();
            back?.focus?.();
            return done;
        }
    }

    const literally = (text) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");

    // Tags of the file under its new and its old name give way to the new one; all else stays as it was written.
    function withTag(text, picked, names, trigger) {
        const either = [...new Set(names)].map(literally).join("|");
        const old = new RegExp(`<lora:(?:${either})(?::[^>]*)?>`, "g");
        const written = text.replace(/<[^>]*>/g, " ");
        const there = new RegExp(`(?<![\\p{L}\\p{N}])${literally(trigger)}(?![\\p{L}\\p{N}])`, "iu");
        const wanted = trigger && there.test(written) ? picked.tag : picked.prompt.trim();
        let placed = false;
        const changed = text.replace(old, () => {
            const now = placed ? "" : wanted;
            placed = true;
            return now;
        });
        if (placed) return changed;
        const kept = text.trimEnd();
        if (!kept) return wanted;
        return `${kept}${kept.endsWith(",") ? "" : ","} ${wanted}`;
    }

    function sendToPrompt(picked, names, trigger) {
        const box = promptBox();
        box.value = withTag(box.value, picked, names, trigger);
        if (typeof updateInput === "function") updateInput(box);
        else box.dispatchEvent(new Event("input", {bubbles: true}));
        refreshCards();
        if (typeof switch_to_txt2img === "function") switch_to_txt2img();
        box.focus();
    }

    function refreshCards() {
        for (const tab of ["txt2img", "img2img"]) {
            page().querySelector(`#${tab}_lora_extra_refresh_internal`)?.dispatchEvent(new Event("click"));
        }
    }
})();
