// Settings as files: own presets, saved and shared; other trainers' settings read in, ours given out.
(() => {
    "use strict";
    if (window.loraExtExchange) return;
    window.loraExtExchange = true;

    const BECAME = {
        used: "used",
        assumed: "not in the file, taken as its trainer has it",
        refused: "not done here",
        meaningless: "no meaning here",
    };

    const ext = () => window.loraExt;
    const form = () => window.loraExtSettings;
    const goal = () => window.loraExtGoal;
    const t = (...words) => ext().t(...words);
    const make = (...words) => ext().make(...words);
    const find = (selector) => ext()?.page().querySelector(selector);

    function button(text, action) {
        const made = make("button", "lora-ext-small", t(text));
        made.type = "button";
        made.addEventListener("click", action);
        return made;
    }

    function field(text, input) {
        const label = make("label", "lora-ext-line");
        label.append(make("span", "", t(text)), input);
        return label;
    }

    function status() {
        const made = make("p", "lora-ext-quiet");
        made.setAttribute("role", "status");
        return made;
    }

    // A button that opens the system's dialogue, reachable by keyboard because the input itself is only out of sight.
    function fileButton(text, endings, action) {
        const label = make("label", "lora-ext-file");
        const input = make("input");
        Object.assign(input, {type: "file", accept: endings});
        input.addEventListener("change", async () => {
            const file = input.files[0];
            if (file) await action(file.name, await file.text());
            input.value = "";
        });
        label.append(make("span", "", t(text)), input);
        return label;
    }

    function download(name, text) {
        const link = make("a");
        link.href = URL.createObjectURL(new Blob([text], {type: "text/plain"}));
        link.download = name;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }

    // Do something and say what came of it; problems are said too.
    async function attempt(place, work) {
        place.classList.remove("lora-ext-toomuch");
        try {
            place.textContent = (await work()) ?? "";
        } catch (error) {
            place.classList.add("lora-ext-toomuch");
            place.textContent = goal().lines(error).map((one) => [one.label, one.text].filter(Boolean).join(": ")).join("\n");
        }
    }

    const post = (path, body) => goal().answer(ext().send("POST", path, body));

    // ---- own presets ------------------------------------------------------------------------------------------

    let presets = [];

    function layPresets(place) {
        const box = make("details", "lora-ext-box");
        const list = make("select");
        const name = make("input");
        const note = make("input");
        const over = make("input");
        const said = status();
        Object.assign(name, {type: "text", maxLength: 80});
        Object.assign(note, {type: "text", maxLength: 1000});
        Object.assign(over, {type: "checkbox"});
        const path = () => `presets/${encodeURIComponent(list.value)}`;
        const picked = () => goal().answer(ext().get(path()));

        const show = (found, select) => {
            presets = found;
            list.replaceChildren(...found.map((one) => {
                const option = make("option", "", one.problem ? t("{0} (cannot be read)", one.name) : one.name);
                option.value = one.name;
                return option;
            }));
            if (select) list.value = select;
            row.hidden = !found.length;
            empty.hidden = found.length > 0;
            tellNote();
        };
        const tellNote = () => {
            const one = presets.find((each) => each.name === list.value);
            said.textContent = one?.problem || one?.note || "";
        };
        const use = () => attempt(said, async () => {
            const one = await picked();
            await goal().usePreset(one.name, one.settings);
            return t("“{0}” is set.", one.name);
        });
        const share = () => attempt(said, async () => {
            const one = await picked();
            download(`${one.name}.json`, one.file);
            return t("The file can be sent to others; it holds no folders and no prompts.");
        });
        const remove = () => attempt(said, async () => {
            const gone = list.value;
            if (!window.confirm(t("Remove the preset “{0}”?", gone))) return "";
            show((await goal().answer(ext().send("DELETE", path()))).presets);
            return t("“{0}” was removed.", gone);
        });
        const save = () => attempt(said, async () => {
            const body = {name: name.value, note: note.value, values: form().values(), overwrite: over.checked};
            const answer = await post("presets", body);
            show(answer.presets, answer.name);
            return t("“{0}” is saved.", answer.name);
        });
        const add = (_, text) => attempt(said, async () => {
            const answer = await post("presets/file", {text, overwrite: over.checked});
            show(answer.presets, answer.name);
            return t("“{0}” was added. Press Use to set it.", answer.name);
        });

        list.addEventListener("change", tellNote);
        const row = make("div", "lora-ext-tools");
        row.append(field("Preset", list), button("Use", use), button("Share as a file", share), button("Remove", remove));
        const empty = make("p", "lora-ext-quiet", t("None yet. Save the settings as they stand under a name, or add a file that somebody shared."));
        const saving = make("div", "lora-ext-tools");
        saving.append(field("Name of the preset", name), field("What it is good for", note), button("Save the settings as a preset", save));
        const adding = make("div", "lora-ext-tools");
        const check = field("Replace one of the same name", over);
        check.classList.add("lora-ext-check");
        adding.append(fileButton("Add a preset file…", ".json", add), check);
        box.append(make("summary", "", t("Own presets")), row, empty, saving, adding, said);
        box.addEventListener("toggle", () => {
            if (box.open) attempt(said, async () => show((await goal().answer(ext().get("presets"))).presets));
        });
        row.hidden = true;
        place.append(box);
    }

    // ---- settings files ---------------------------------------------------------------------------------------

    function layFiles(place) {
        const box = make("details", "lora-ext-box");
        const path = make("input");
        const said = status();
        const result = make("div");
        Object.assign(path, {type: "text", placeholder: "D:/training/config.toml"});

        const read = (body) => attempt(said, async () => {
            result.replaceChildren();
            const found = await post("settings/import", body);
            result.append(...outcome(found, said));
            const told = t("From {0}: {1} keys used, {2} not done here, {3} without meaning here.", found.origin,
                count(found, "used"), count(found, "refused"), count(found, "meaningless"));
            return [told, t("{0} settings would change; they come first.", found.rows.filter(differs).length)].join("\n");
        });
        const reading = make("div", "lora-ext-tools");
        reading.append(
            fileButton("Read a settings file…", ".toml,.json,.yaml,.yml", (name, text) => read({name, text})),
            field("or its path", path),
            button("Read", () => read({path: path.value})),
        );
        const writing = make("div", "lora-ext-tools");
        writing.append(
            button("Download as TOML", () => give(said, "toml")),
            button("Download for sd-scripts", () => give(said, "sd-scripts")),
            button("Copy as command line", () => give(said, "command")),
        );
        const words = t("Reads files of kohya_ss, sd-scripts, lora-scripts, HCP-Diffusion and sd_dreambooth, and our own.");
        box.append(make("summary", "", t("Settings files")), make("p", "lora-ext-quiet", words), reading, writing, said, result);
        place.append(box);
    }

    const count = (found, became) => found.rows.filter((row) => row.became === became).length;

    // Whether the form says something else now than the file does.
    function differs(row) {
        const now = row.name ? form().read(row.name) : undefined;
        return now !== undefined && !form().same(row.name, now, row.value);
    }

    // The button that takes the settings over, and a table of what became of each key.
    function outcome(found, said) {
        const take = button("Use these settings", () => attempt(said, async () => {
            const before = await form().set(found.settings);
            back.hidden = false;
            fill();
            back.onclick = () => attempt(said, async () => {
                await form().set(before);
                back.hidden = true;
                fill();
                return t("Undone.");
            });
            return t("{0} settings were set.", Object.keys(before).length);
        }));
        const back = button("Undo", () => {});
        back.hidden = true;
        const bar = make("div", "lora-ext-tools");
        bar.append(take, back);
        const table = make("table", "lora-ext-table lora-ext-rows");
        const head = make("tr");
        head.append(...["Key", "What became of it", "Setting or reason"].map((text) => make("th", "", t(text))));
        const order = ["refused", "used", "assumed", "meaningless"];
        const fill = () => {
            const place = new Map(found.rows.map((row) => [row, differs(row) ? -1 : order.indexOf(row.became)]));
            table.replaceChildren(head, ...[...found.rows].sort((a, b) => place.get(a) - place.get(b)).map(line));
        };
        fill();
        const frame = make("div", "lora-ext-scroll");
        frame.tabIndex = 0;
        frame.setAttribute("role", "region");
        frame.setAttribute("aria-label", t("What became of it"));
        frame.append(table);
        return [bar, frame];
    }

    function line(row) {
        const made = make("tr", `lora-ext-${row.became}`);
        let told = row.label ? `${t(row.label)} = ${shown(row.value)}` : row.why;
        if (differs(row)) {
            made.classList.add("lora-ext-differs");
            told = t("{0} = {1}, now {2}", t(row.label), shown(row.value), shown(form().read(row.name)));
        }
        made.append(make("td", "", row.key || "–"), make("td", "", t(BECAME[row.became])), make("td", "", told));
        return made;
    }

    function shown(value) {
        if (typeof value === "boolean") return value ? t("on") : t("off");
        return value === "" ? t("nothing") : String(value);
    }

    const give = (said, kind) => attempt(said, async () => {
        const made = await post("settings/export", {values: form().values(), form: kind});
        if (kind === "command") {
            await copy(made.files[0].text);
            return t("Copied: {0}", made.files[0].text);
        }
        made.files.forEach((file) => download(file.name, file.text));
        return made.left_out.length
            ? t("sd-scripts has no words for: {0}.", made.left_out.map((label) => t(label)).join(", "))
            : t("Everything is in the file.");
    });

    // Without https a page may not reach the clipboard by itself; a selected text it may copy.
    async function copy(text) {
        try {
            await navigator.clipboard.writeText(text);
        } catch {
            const area = make("textarea", "", text);
            document.body.append(area);
            area.select();
            document.execCommand("copy");
            area.remove();
        }
    }

    // ---- life -------------------------------------------------------------------------------------------------

    function tick() {
        if (!form() || typeof goal() !== "object" || !ext()) return;
        const own = find(".lora-ext-own");
        if (own && !own.childElementCount) layPresets(own);
        const files = find(".lora-ext-exchange");
        if (files && !files.childElementCount) layFiles(files);
    }

    setInterval(tick, 300);
})();
