// Step 1, below the pictures: tags with their counts, changes of many captions, describing by a model, earlier captions.
(() => {
    "use strict";
    if (window.loraExtPictureTools) return;
    window.loraExtPictureTools = true;

    const FEW = 60; // tags shown at first
    const EVERY = 500; // ms between questions while a model works

    let all = false;
    let cloud = "";
    let captioners = null;
    let job = null;
    let asking = false;

    const ext = () => window.loraExt;
    const desk = () => window.loraExtPictures;
    const t = (...words) => ext().t(...words);
    const make = (...words) => ext().make(...words);
    const part = (name) => desk().part(name);

    // ---- tags -------------------------------------------------------------------------------------------------

    function counts() {
        const found = new Map();
        for (const entry of desk().state.entries.values()) {
            for (const tag of new Set(desk().tagsOf(entry))) found.set(tag, (found.get(tag) || 0) + 1);
        }
        return [...found].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
    }

    function drawCloud() {
        const place = part("cloud");
        if (!place.getClientRects().length) return;
        const {tags} = desk().state;
        const found = counts();
        for (const tag of [...tags]) if (!found.some(([known]) => known === tag)) tags.delete(tag);
        const some = all ? found : found.filter(([tag], i) => i < FEW || tags.has(tag));
        const sign = JSON.stringify([some, [...tags]]);
        part("cloud-more").hidden = all || found.length <= FEW;
        if (sign === cloud) return;
        cloud = sign;
        const focused = document.activeElement?.closest("[data-pic=cloud]") ? document.activeElement.dataset.tag : null;
        place.replaceChildren(...some.map(([tag, count]) => {
            const item = make("li");
            const button = make("button", "", tag);
            button.type = "button";
            button.dataset.tag = tag;
            button.setAttribute("aria-pressed", String(tags.has(tag)));
            button.append(" ", make("small", "", String(count)));
            item.append(button);
            return item;
        }));
        if (!some.length) place.append(make("li", "lora-ext-pic-hint", t("There are no tags yet.")));
        if (focused !== null) [...place.querySelectorAll("button")].find((b) => b.dataset.tag === focused)?.focus();
    }

    function pressTag(tag) {
        const {tags} = desk().state;
        tags.has(tag) ? tags.delete(tag) : tags.add(tag);
        desk().refilter();
    }

    // ---- many captions ----------------------------------------------------------------------------------------

    function scopeText() {
        const {numbers, selected, hidden} = desk().scope();
        if (!selected) return t("This changes the {0} pictures that are shown. Select some to change only those.", numbers.length);
        if (hidden) return t("This changes the {0} selected pictures; {1} of them are not shown now.", numbers.length, hidden);
        return t("This changes the {0} selected pictures.", numbers.length);
    }

    function complain(problems) {
        const slots = [...part("desk").querySelectorAll("[data-pic-error]")];
        slots.forEach((slot) => { slot.textContent = ""; });
        const rest = [];
        for (const problem of problems) {
            const slot = slots.find((one) => one.dataset.picError === problem.field);
            if (!slot) rest.push(problem);
            else slot.textContent = ext().said(problem.text);
            const input = part(problem.field);
            if (slot && input?.tagName === "INPUT") input.focus();
        }
        if (rest.length) desk().fail({problems: rest});
    }

    async function bulk(action, words, replacement = "") {
        desk().commit();
        complain([]);
        const {numbers} = desk().scope();
        part("bulk-said").textContent = "";
        try {
            const {changed} = await desk().change("bulk", {action, words, replacement, numbers});
            part("bulk-said").textContent = changed === 1 ? t("1 caption changed.") : t("{0} captions changed.", changed);
        } catch (error) {
            if (error.problems) complain(error.problems);
            else desk().fail(error);
        }
    }

    // ---- describing -------------------------------------------------------------------------------------------

    const model = () => captioners?.find((one) => one.name === part("captioner").value);

    async function ask() {
        if (asking) return;
        asking = true;
        try {
            const got = await desk().answer(ext().get("captioners"));
            const before = JSON.stringify([captioners, job]);
            const ended = job?.busy && !got.job.busy;
            captioners = got.captioners;
            job = got.job;
            if (before !== JSON.stringify([captioners, job])) drawCaptioning();
            if (ended) desk().ask();
        } catch { /* asked again */ } finally {
            asking = false;
        }
    }

    function drawCaptioning() {
        const select = part("captioner");
        const chosen = select.value;
        select.replaceChildren(...captioners.map((one) => {
            const option = make("option", "", one.label);
            option.value = one.name;
            return option;
        }));
        if (captioners.some((one) => one.name === chosen)) select.value = chosen;
        else select.value = captioners.find((one) => one.present)?.name ?? captioners[0]?.name ?? "";
        drawModel();
    }

    function drawModel() {
        const one = model();
        if (!one) return;
        const tags = one.kind === "tags";
        part("threshold-box").hidden = part("character-box").hidden = !tags;
        part("weights").textContent = weightsText(one);
        const busy = Boolean(job?.busy);
        part("describe").disabled = busy || !one.present || Boolean(one.lacking);
        part("fetch").hidden = one.present || !one.source || busy;
        part("fetch").textContent = t("Download the model (about {0} MB)", one.megabytes);
        part("cancel").hidden = !busy;
        const bar = part("progress");
        bar.hidden = !busy;
        if (busy && job.total) bar.value = (100 * job.done) / job.total;
        else bar.removeAttribute("value");
        part("caption-said").textContent = jobText();
        complain(job && !busy && job.problems.length ? job.problems.map((p) => ({...p, field: "captioner"})) : []);
    }

    function weightsText(one) {
        if (one.lacking) return t("The package {0} is missing; this model needs it.", one.lacking);
        if (one.present) return t("The model is on disk: {0}", one.place);
        if (!one.source) return t("The model is not on disk. Put it here: {0}", one.place);
        return t("The model is not on disk. It would be downloaded from {0} into {1}. Nothing is downloaded before you press.", one.source, one.place);
    }

    function jobText() {
        if (!job || (!job.busy && !job.said)) return "";
        if (!job.busy) return t(job.said, ...job.values);
        if (job.kind === "fetch") return t("Downloading: {0} of {1} MB", mega(job.done), mega(job.total) || "?");
        return t("Describing: {0} of {1}", job.done, job.total);
    }

    const mega = (bytes) => Math.round(bytes / 2 ** 20);

    async function start(path, body) {
        complain([]);
        try {
            await desk().answer(ext().send("POST", path, body));
            job = {busy: true, kind: "", done: 0, total: 0, said: "", values: [], problems: []};
            await ask();
        } catch (error) {
            if (error.problems) complain(error.problems.map((p) => ({...p, field: "captioner"})));
            else desk().fail(error);
        }
    }

    function describe() {
        desk().commit();
        start(`pictures/${desk().state.key}/captions`, {
            captioner: part("captioner").value, mode: part("caption-mode").value, numbers: desk().scope().numbers,
            threshold: Number(part("threshold").value), character_threshold: Number(part("character-threshold").value),
        });
    }

    // ---- captions before earlier saves ------------------------------------------------------------------------

    async function drawBackups() {
        try {
            const {backups} = await desk().answer(ext().get(`pictures/${desk().state.key}/backups`));
            part("backups").replaceChildren(...backups.map((backup) => {
                const item = make("li", "", t("{0}: {1} captions", backup.name, backup.count));
                const button = make("button", "", t("Bring back"));
                button.type = "button";
                button.dataset.backup = backup.name;
                item.append(" ", button);
                return item;
            }));
            if (!backups.length) part("backups").append(make("li", "lora-ext-pic-hint", t("Nothing was saved here yet.")));
        } catch (error) {
            desk().fail(error);
        }
    }

    // ---- what the user does -----------------------------------------------------------------------------------

    const CLICKS = {
        "do-replace": () => bulk(part("find-kind").value, part("find").value, part("replace").value),
        "cloud-more": () => { all = true; drawCloud(); },
        describe,
        fetch: () => start(`captioners/${encodeURIComponent(part("captioner").value)}/fetch`, {}),
        cancel: () => start("captioners/cancel", {}),
    };

    function onClick(event) {
        const button = event.target.closest("button");
        if (!button) return;
        if (button.dataset.bulk) bulk(button.dataset.bulk, part("words").value);
        else if (button.dataset.backup) desk().change("restore", {backup: button.dataset.backup}).catch(desk().fail);
        else if (button.closest("[data-pic=cloud]")) pressTag(button.dataset.tag);
        else CLICKS[button.dataset.pic]?.();
    }

    function onKey(event) {
        if (event.key !== "Enter" || event.isComposing) return;
        if (event.target === part("words")) bulk("add", part("words").value);
        if (event.target === part("find") || event.target === part("replace")) CLICKS["do-replace"]();
    }

    let drawing = 0;
    function draw() {
        part("scope").textContent = part("caption-scope").textContent = scopeText();
        clearTimeout(drawing);
        drawing = setTimeout(drawCloud, 60); // counting 2000 captions can wait until the eye has seen the change
    }

    function tick() {
        const place = desk()?.part("desk");
        if (!ext() || !place || !place.getClientRects().length || document.hidden) return;
        if (!place.dataset.heard) {
            place.dataset.heard = "yes";
            place.addEventListener("click", onClick);
            place.addEventListener("keydown", onKey);
            place.querySelectorAll("details").forEach((one) => one.addEventListener("toggle", draw));
            part("backups-box").addEventListener("toggle", () => part("backups-box").open && drawBackups());
            part("captioner").addEventListener("change", drawModel);
            desk().onDraw(draw);
            draw();
        }
        if (job?.busy || (part("captioning").open && captioners === null)) ask();
    }

    setInterval(tick, EVERY);
})();
