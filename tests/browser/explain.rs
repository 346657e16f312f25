//! The page of `tandem explain --format html`: it stands alone, shows all of the plan, and tells what is pointed at.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tandem_ir::Plan;
use tandem_onnx_proto::{Message as _, ModelProto};

use crate::binary::{Place, T4};
use crate::chromium::Chromium;

/// What a model's maker may call a tensor: it must be text, and nothing else.
const HOSTILE: &str =
    "</script></svg><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&amp; ü 模型 ";

fn page(place: &Place, words: &str) -> (Plan, PathBuf) {
    place.tandem(&format!("plan {words} --machine {T4} -o plan.yaml -q")).code(0);
    place.tandem("explain plan.yaml --format html -o page.html").code(0);
    place.tandem("explain plan.yaml --format html -o again.html").code(0);
    assert_eq!(place.read("page.html"), place.read("again.html"), "the same plan gives the same bytes");
    let plan = tandem_ir::format::plan::from_yaml(&place.read("plan.yaml"), "plan.yaml").expect("a plan");
    (plan, place.path("page.html"))
}

/// The page is open, said nothing on the console, asked for nothing but itself, and holds every operator of the plan.
#[track_caller]
fn stands_alone(chromium: &Chromium, plan: &Plan, page: &Path) {
    chromium.logged();
    chromium.open(page);
    let (console, requests) = chromium.logged();
    assert!(console.is_empty(), "{console:#?}");
    let own = |url: &String| *url == format!("file://{}", page.display()) || url.starts_with("data:");
    assert!(!requests.is_empty() && requests.iter().all(own), "{requests:#?}");
    for (r, route) in plan.derived.routes.iter().enumerate() {
        let script = format!("return [...document.querySelectorAll('#route{r} td.name')].map(e => e.textContent)");
        let mut shown: Vec<String> = serde_json::from_value(chromium.run(&script)).expect("names");
        let mut planned: Vec<String> = route.segments.iter().flat_map(|s| s.nodes.clone()).collect();
        shown.sort();
        planned.sort();
        assert!(!planned.is_empty());
        assert_eq!(shown, planned, "{} at batch {}", route.tenant, route.batch);
        let steps = format!("return document.querySelectorAll('#route{r} .timeline .step').length");
        assert_eq!(chromium.run(&steps), route.steps.len(), "a box a step");
        let boxes = format!(
            "return [...document.querySelectorAll('#route{r} .operators tr[data-box]')]\
             .every(e => document.getElementById(e.dataset.box).closest('#route{r}'))"
        );
        assert_eq!(chromium.run(&boxes), true, "every operator is in a box of the picture");
    }
    let title = chromium.run("return document.title");
    assert!(title.as_str().is_some_and(|t| t.ends_with(" on t4-8vcpu")), "{title}");
    assert_eq!(chromium.run("return document.querySelectorAll('script').length"), 1, "no script but the page's");
    assert_eq!(chromium.run("return document.images.length"), 0);
}

/// Fits the window, in colours that can be read, light and dark. Leaves pictures.
fn looks_well(chromium: &Chromium, name: &str) {
    let brightness = |of: &str, colour: &str| {
        let script = format!(
            "const [r, g, b] = getComputedStyle(document.querySelector('{of}')).{colour}.match(/\\d+/g).map(Number);\
             return (r + g + b) / 3"
        );
        chromium.run(&script).as_f64().expect("a colour")
    };
    for scheme in ["light", "dark"] {
        chromium.prefer(scheme);
        let (paper, ink) = (brightness("body", "backgroundColor"), brightness("body", "color"));
        assert_eq!(paper > 128.0, scheme == "light", "{scheme}: paper {paper}");
        let drawn = brightness(".graph text", "fill");
        for ink in [ink, drawn] {
            assert!((paper - ink).abs() > 150.0, "{scheme}: {ink} on {paper}");
        }
        let wide = chromium.run("return document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64() <= Some(0), "{scheme}: wider than the window by {wide}");
        let fits = "return [...document.querySelectorAll('details[open] .timeline')]
            .every(t => t.parentNode.scrollWidth <= t.parentNode.clientWidth)";
        assert_eq!(chromium.run(fits), true, "{scheme}: the timeline is seen whole");
        // Texts of boxes end within their boxes, and no box lies on another.
        let out = "return [...document.querySelectorAll('details[open] .graph .box')].flatMap(box => {
            const room = box.querySelector('rect').getBoundingClientRect();
            const texts = [...box.querySelectorAll('text')].map(t => t.getBoundingClientRect());
            const crowded = texts.some((a, i) => texts.some((b, j) => i < j && a.left < b.right - 1 && b.left < a.right - 1
                && a.top + 4 < b.bottom - 4 && b.top + 4 < a.bottom - 4));
            const over = texts.some(t => t.right > room.right || t.left < room.left);
            const under = [...box.parentNode.querySelectorAll('.box > rect')].some(other => {
                const r = other.getBoundingClientRect();
                return other.parentNode !== box && r.left < room.right && room.left < r.right && r.top < room.bottom
                    && room.top < r.bottom;
            });
            return over || crowded || under ? [[over, crowded, under, box.textContent]] : [] })";
        assert_eq!(chromium.run(out), serde_json::json!([]), "{scheme}: [over, crowded, under, text]");
        leave(&format!("{name}-{scheme}"), &chromium.picture(true));
    }
    chromium.prefer("light");
}

/// Leaves a picture for people.
fn leave(name: &str, picture: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(format!("{name}.png")), decoded(picture)).expect("a picture");
}

/// RFC 4648, section 4; what is no digit ends it.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut out, mut word, mut bits) = (vec![], 0u32, 0);
    for six in text.bytes().map_while(digit) {
        (word, bits) = (word << 6 | u32::from(six), bits + 6);
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    out
}

fn tip(chromium: &Chromium) -> Option<String> {
    let shown = chromium.run("const tip = document.getElementById('tip'); return tip.hidden ? null : tip.innerText");
    shown.as_str().map(str::to_owned)
}

/// Steps and boxes tell what they are when pointed at, keep telling it when pressed, and stop at Escape.
fn tells(chromium: &Chromium) {
    for (what, words) in [
        (".timeline .step:not(.copy)", ["segment ", " on ", "operators", "launch ", "from "]),
        (".timeline .step.copy", ["copy of ", " over ", "B", " from ", "to "].map(|w| w.trim())),
        (".graph .box.d0", ["takes ", "hands on ", "segment ", "\"", "cpu"]),
        (".graph .box.copy", ["over ", ">", "B", " in ", "\""]),
    ] {
        let what = format!("details[open] {what}");
        chromium.point(&what, false);
        let told = tip(chromium).unwrap_or_else(|| panic!("{what}: nothing is told"));
        words.iter().for_each(|w| assert!(told.contains(w), "{what}: expected \"{w}\" in\n{told}"));
        let alike = chromium.run("return document.querySelectorAll('.same').length");
        assert!(alike.as_u64() >= Some(2), "{what}: shown in both pictures at once");
        chromium.point("h1", false);
        assert_eq!(tip(chromium), None, "{what}: no longer pointed at");
        chromium.point(&what, true);
        chromium.point("h1", false);
        assert_eq!(tip(chromium).as_deref(), Some(told.as_str()), "{what}: pressed");
        chromium.run("document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))");
        assert_eq!(tip(chromium), None, "{what}: Escape");
    }
    let focused = "document.querySelector('details[open] .timeline .step').focus()";
    chromium.run(focused);
    assert!(tip(chromium).is_some_and(|t| t.contains("segment")), "reached by the keyboard");
    let inside = "const tip = document.getElementById('tip').getBoundingClientRect();
        return tip.left >= 0 && tip.top >= 0 && tip.right <= innerWidth && tip.bottom <= innerHeight";
    assert_eq!(chromium.run(inside), true, "what is told is within the window");
    leave("one-told", &chromium.picture(false));
    chromium.run("document.activeElement.blur()");
    assert_eq!(tip(chromium), None);
}

/// An operator is found by its name, in the table and in the picture.
fn finds(chromium: &Chromium, plan: &Plan) {
    let preferred = plan.derived.routes.iter().position(|r| r.share_permille > 0).expect("a route");
    let name = &plan.derived.routes[preferred].segments[0].nodes[0];
    let place = format!("#route{preferred}");
    chromium.run(&format!("document.querySelector('{place} .operators').open = true"));
    chromium.type_into(&format!("{place} .find"), name);
    let rows = format!(
        "return [...document.querySelectorAll('{place} .operators tbody tr')].filter(e => !e.hidden)\
         .map(e => e.querySelector('.name').textContent)"
    );
    let rows: Vec<String> = serde_json::from_value(chromium.run(&rows)).expect("names");
    assert!(rows.contains(name) && rows.iter().all(|r| r.contains(name.as_str())), "{name}: {rows:?}");
    let marked = chromium.run(&format!("return document.querySelectorAll('{place} .graph .found').length"));
    assert!((Some(1)..=Some(rows.len() as u64)).contains(&marked.as_u64()), "{marked} boxes for {rows:?}");
}

#[test]
fn a_page_stands_alone_and_tells_what_is_pointed_at() {
    let Some(chromium) = Chromium::start() else { return };
    let place = Place::new();
    let (plan, page) = page(&place, "zoo:tiny-resnet --batch 1,2 --slo 100ms --search random:7");
    stands_alone(&chromium, &plan, &page);
    looks_well(&chromium, "one");
    tells(&chromium);
    finds(&chromium, &plan);
    assert_eq!(chromium.logged().0, Vec::<String>::new(), "nothing on the console");
    // A link from the overview opens the route that was folded away.
    let folded = plan.derived.routes.iter().position(|r| r.share_permille == 0).expect("a smaller batch");
    let open = format!("return document.getElementById('route{folded}').open");
    assert_eq!(chromium.run(&open), Value::Bool(false));
    chromium.point(&format!("a[href=\"#route{folded}\"]"), true);
    let opened = format!(
        "const route = document.getElementById('route{folded}');
         return new Promise(done => route.open ? done(true) : route.addEventListener('toggle', () => done(route.open)))"
    );
    assert_eq!(chromium.run(&opened), Value::Bool(true));
}

#[test]
fn a_page_shows_every_tenant() {
    let Some(chromium) = Chromium::start() else { return };
    let place = Place::new();
    let words = "a=zoo:tiny-bert,rate=40 b=zoo:tiny-ssd,slo=100ms --slo 400ms --batch 1,2";
    let (plan, page) = page(&place, words);
    stands_alone(&chromium, &plan, &page);
    looks_well(&chromium, "two");
    let overview = chromium.run("return document.querySelector('.promises').innerText");
    for said in ["a at batch 1", "b at batch 2", "100.00 ms at p99", "400.00 ms at p99", "planned for 40.000"] {
        assert!(overview.as_str().is_some_and(|o| o.contains(said)), "expected \"{said}\" in\n{overview}");
    }
}

#[test]
fn names_are_text_whatever_they_hold() {
    let Some(chromium) = Chromium::start() else { return };
    let place = Place::new();
    place.tandem("models build tiny-vgg -o tiny.onnx").code(0);
    let bytes = std::fs::read(place.path("tiny.onnx")).expect("a model");
    let mut model = ModelProto::decode(&bytes.into()).expect("a model");
    let graph = model.graph.as_mut().expect("a graph");
    let ends: Vec<String> = graph.input.iter().chain(&graph.output).map(|v| v.name.clone()).collect();
    let rename = |name: &mut String| {
        if !ends.contains(name) {
            *name = format!("{HOSTILE}{name}");
        }
    };
    graph.node.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output)).for_each(rename);
    graph.initializer.iter_mut().for_each(|t| rename(&mut t.name));
    graph.value_info.iter_mut().for_each(|v| rename(&mut v.name));
    place.write("hostile.onnx", model.encode());
    let (plan, page) = page(&place, "hostile.onnx --batch 1 --search random:3");
    let hostile = plan.derived.routes[0].segments.iter().flat_map(|s| &s.nodes).filter(|n| n.starts_with(HOSTILE));
    assert!(hostile.count() > 10, "names are as they were meant");
    stands_alone(&chromium, &plan, &page);
    looks_well(&chromium, "hostile");
    chromium.point("details[open] .graph .box.d0", false);
    let told = tip(&chromium).expect("what is pointed at is told");
    assert!(told.contains("<script>document.title='owned'</script>"), "as text: {told}");
    assert_eq!(chromium.run("return document.querySelectorAll('script, img').length"), 1);
}
