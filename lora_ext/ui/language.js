// The language of the page on its own, in the WebUI's manner: `window.localization` maps English texts to others. Texts
// that our scripts make are looked up there by themselves; here those that gradio draws follow.
(() => {
    "use strict";
    if (window.loraExtLanguage) return;
    const KEEP = "lora_ext_language";
    const NAMES = {en: "English", zh_CN: "简体中文", zh_TW: "繁體中文", ru_RU: "Русский", ja_JP: "日本語"};
    const ATTRIBUTES = ["title", "placeholder", "aria-label"];

    // The language that was chosen here, or the browser's.
    function wanted() {
        let kept = null;
        try {
            kept = localStorage.getItem(KEEP);
        } catch { /* a browser may forbid it */ }
        if (kept in NAMES) return kept;
        for (const one of navigator.languages ?? []) {
            if (/^en\b/i.test(one)) return "en";
            if (/^zh-(tw|hk|mo|hant)/i.test(one)) return "zh_TW";
            const found = Object.keys(NAMES).find((name) => name.slice(0, 2) === one.slice(0, 2).toLowerCase());
            if (found) return found;
        }
        return "en";
    }

    const language = wanted();

    async function begin() {
        if (language !== "en") {
            try {
                const answer = await fetch(`lora-ext/v1/assets/${language}.json`);
                if (answer.ok) window.localization = await answer.json();
            } catch { /* then it is English */ }
        }
        document.documentElement.lang = language.replace("_", "-");
        if (window.localization) {
            translate(document.body);
            new MutationObserver((changes) => changes.forEach(follow)).observe(document.body, {
                childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES,
            });
        }
        setInterval(chooser, 500);
    }

    function follow(change) {
        if (change.type === "characterData") return text(change.target);
        if (change.type === "attributes") return attributes(change.target);
        change.addedNodes.forEach(translate);
    }

    function translate(node) {
        if (node.nodeType === Node.TEXT_NODE) return text(node);
        if (node.nodeType !== Node.ELEMENT_NODE) return;
        const walk = document.createTreeWalker(node, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
        for (let one = node; one; one = walk.nextNode()) {
            if (one.nodeType === Node.TEXT_NODE) text(one);
            else attributes(one);
        }
    }

    // Only whole texts are exchanged, never what somebody typed.
    function text(node) {
        if (["SCRIPT", "STYLE", "TEXTAREA"].includes(node.parentElement?.tagName)) return;
        if (node.parentElement?.closest("[translate=no]")) return; // a tag may read like a word of ours
        const told = window.localization[node.textContent.replace(/\s+/g, " ").trim()];
        if (told !== undefined && node.textContent !== told) node.textContent = told;
    }

    function attributes(element) {
        for (const name of ATTRIBUTES) {
            const now = element.getAttribute(name);
            const told = window.localization[now];
            if (told !== undefined && told !== now) element.setAttribute(name, told); // the same again would be seen again
        }
    }

    function chooser() {
        const home = document.querySelector(".lora-ext-language");
        if (!home || home.childElementCount) return;
        const select = document.createElement("select");
        select.setAttribute("aria-label", "Language");
        for (const [name, title] of Object.entries(NAMES)) select.append(new Option(title, name, false, name === language));
        select.addEventListener("change", () => {
            try {
                localStorage.setItem(KEEP, select.value);
            } catch { /* then it holds until the page is reloaded */ }
            location.reload();
        });
        home.append(select);
    }

    window.loraExtLanguage = begin();
})();
