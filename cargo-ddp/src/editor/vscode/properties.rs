//! Odd but legal files: whatever is in them of the user's own is there afterwards, to the byte.

use std::fs;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::tests::{project, update};
use super::*;

/// White space and comments, in which nothing may be taken for JSON.
fn trivia() -> BoxedStrategy<String> {
    let one = prop_oneof![
        6 => Just(" ".to_owned()),
        2 => Just("\n".to_owned()),
        2 => Just("\t".to_owned()),
        1 => Just("\n\n    ".to_owned()),
        2 => "// [a-z{}\\[\\]\",:/*]{0,12}\n",
        2 => "/\\*[a-z{}\\[\\]\",:/\n ]{0,12}\\*/",
        1 => Just("/**//***/".to_owned()),
        1 => Just("// ddp: train, one process\n".to_owned()),
    ];
    prop_oneof![3 => Just(String::new()), 4 => one.clone(), 1 => prop::collection::vec(one, 1..4).prop_map(|all| all.concat())].boxed()
}

fn string() -> BoxedStrategy<String> {
    prop_oneof![
        4 => "[a-z{}\\[\\],:/*ä€𝄞 -]{0,8}".prop_map(|text| format!("\"{text}\"")),
        1 => Just(r#""\"},{\"// \\\"""#.to_owned()),
        1 => Just(r#""\u007b\n\/*""#.to_owned()),
    ]
    .boxed()
}

fn scalar() -> BoxedStrategy<String> {
    let number = prop_oneof![Just("0"), Just("-1.5e+3"), Just("null"), Just("true"), Just("false")];
    prop_oneof![3 => string(), 1 => number.prop_map(str::to_owned)].boxed()
}

/// Items between brackets, with trivia everywhere and perhaps a trailing comma.
fn bracketed(open: char, close: char, items: impl Strategy<Value = Vec<String>> + 'static) -> BoxedStrategy<String> {
    let parts = items.prop_flat_map(|items| {
        let around = prop::collection::vec((trivia(), trivia()), items.len());
        (Just(items), around, prop_oneof![trivia(), Just("\n".to_owned())], any::<bool>())
    });
    parts
        .prop_map(move |(items, around, end, trailing)| {
            let last = items.len().saturating_sub(1);
            let mut text = String::from(open);
            for (at, (item, (before, after))) in items.iter().zip(&around).enumerate() {
                let comma = if at < last || trailing { "," } else { "" };
                text += &format!("{before}{item}{after}{comma}");
            }
            text + &end + &close.to_string()
        })
        .boxed()
}

fn property(
    key: impl Strategy<Value = String> + 'static,
    value: impl Strategy<Value = String> + 'static,
) -> BoxedStrategy<String> {
    (key, trivia(), trivia(), value)
        .prop_map(|(key, before, after, value)| format!("{key}{before}:{after}{value}"))
        .boxed()
}

fn value() -> BoxedStrategy<String> {
    scalar()
        .prop_recursive(3, 16, 3, |inner| {
            let list = bracketed('[', ']', prop::collection::vec(inner.clone(), 0..3));
            let object = bracketed('{', '}', prop::collection::vec(property(string(), inner), 0..3));
            prop_oneof![list, object]
        })
        .boxed()
}

/// A user's entry: names repeat, and some look like ours. Some values are not entries at all.
fn element() -> BoxedStrategy<String> {
    const NAMES: &[&str] =
        &["mine", "mine", "", "ddp: ", "ddp: mine", "DDP: train, one process", "ddp: run train", "a } ] {"];
    let name = prop::sample::select(NAMES).prop_map(|name| format!("{name:?}"));
    let name = property(Just("\"name\"".to_owned()), name);
    let label =
        property(Just("\"label\"".to_owned()), prop::sample::select(NAMES).prop_map(|name| format!("{name:?}")));
    let member = prop_oneof![Just("\"mine\"".to_owned()), Just("\"ddp: other\"".to_owned()), scalar()];
    let members = bracketed('[', ']', prop::collection::vec(member, 0..3));
    let members = property(Just("\"configurations\"".to_owned()), members);
    let kind = prop::sample::select(&["\"lldb\"", "\"cppdbg\"", "\"python\""][..]).prop_map(str::to_owned);
    let kind = property(Just("\"type\"".to_owned()), kind);
    let pair = prop_oneof![3 => name, 1 => label, 2 => members, 2 => kind, 3 => property(string(), value())];
    let object = bracketed('{', '}', prop::collection::vec(pair, 0..4));
    prop_oneof![6 => object, 1 => value()].boxed()
}

/// A complete file, with or without the keys that we edit.
fn file() -> BoxedStrategy<String> {
    const KEYS: &[&str] =
        &["configurations", "compounds", "inputs", "tasks", "recommendations", "unwantedRecommendations"];
    let list = |key: &'static str| {
        let elements = bracketed('[', ']', prop::collection::vec(element(), 0..4));
        property(Just(format!("{key:?}")), elements)
    };
    let ours = prop::sample::select(KEYS).prop_flat_map(list);
    let version = || property(Just("\"version\"".to_owned()), string());
    let theirs = || property(string(), value());
    let pair = prop_oneof![6 => ours, 1 => version(), 2 => theirs()];
    let odd = bracketed('{', '}', prop::collection::vec(pair, 0..6));
    let usual = (theirs(), version(), list("configurations"), list("compounds"), list("inputs"));
    let usual = usual.prop_map(|(theirs, version, configurations, compounds, inputs)| {
        vec![theirs, version, configurations, compounds, inputs]
    });
    let usual = bracketed('{', '}', usual.prop_shuffle());
    let root = prop_oneof![6 => odd, 6 => usual, 1 => Just(String::new())];
    let parts = (any::<bool>(), any::<bool>(), trivia(), root, trivia());
    parts
        .prop_map(|(mark, windows, before, root, after)| {
            let text = format!("{before}{root}{after}");
            let text = if windows { text.replace('\n', "\r\n") } else { text };
            format!("{}{text}", if mark { "\u{feff}" } else { "" })
        })
        .boxed()
}

/// Strings, comments, punctuation and words: everything but white space.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = vec![];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
            continue;
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.unwrap() + 2
        } else if rest.starts_with("//") {
            rest.find(['\n', '\r']).unwrap_or(rest.len())
        } else if let Some(inside) = rest.strip_prefix("/*") {
            inside.find("*/").unwrap() + 4
        } else if "{}[],:\u{feff}".contains(first) {
            first.len_utf8()
        } else {
            rest.find(|c: char| c.is_whitespace() || "{}[],:/\"".contains(c)).unwrap_or(rest.len())
        };
        tokens.push(&rest[..length]);
        rest = &rest[length..];
    }
    tokens
}

/// Whether `part` is what is left of `whole` when some of it is taken away.
fn is_within(part: &str, whole: &str) -> bool {
    let mut bytes = whole.bytes();
    part.bytes().all(|byte| bytes.any(|other| other == byte))
}

const LISTS: [&str; 3] = ["configurations", "compounds", "inputs"];

/// Lists that end on a separate line, so that adding and removing items moves nothing.
fn ends_its_lists_on_own_lines(source: &Source) -> bool {
    LISTS.iter().all(|key| {
        let Ok(Some(list)) = source.list(key) else { return false };
        let inside = &source.text[..list.range.end - 1];
        let spaces = &inside[inside.trim_end().len()..];
        // A list without anything in it comes back as `[]`.
        let something = list.range.end - list.range.start - 2 > spaces.len();
        something && spaces.contains(['\n', '\r'])
    })
}

fn write(dir: &Path, text: &str) {
    for name in ["launch.json", "tasks.json", "extensions.json", "settings.json"] {
        fs::write(dir.join(".vscode").join(name), text).unwrap();
    }
}

/// What the four files say.
fn read(dir: &Path) -> Vec<String> {
    let names = ["launch.json", "tasks.json", "extensions.json", "settings.json"];
    names.map(|name| fs::read_to_string(dir.join(".vscode").join(name)).unwrap()).into()
}

fn nothing() -> Project {
    Project { trainable: vec![], ..project() }
}

fn holds(text: &str, first: Debugger, second: Debugger, ranks: usize) -> Result<(), TestCaseError> {
    let path = Path::new("generated.json");
    let before = Source::parse(path, text).map_err(|err| TestCaseError::fail(format!("no legal file: {err}")))?;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    write(dir.path(), text);
    let request = Request::new(Workers::nproc(ranks));
    let request = Request { debugger: Some(first), ..request };
    if let Err(err) = update(dir.path(), &project(), &request) {
        // Only lists can be added to; what is none is the user's, and an error.
        prop_assert!(matches!(err, Error::BadJson { .. }), "{err}");
        prop_assert!(read(dir.path()).iter().all(|now| now == text), "something was written");
        return Ok(());
    }
    let after = read(dir.path());
    for now in &after {
        let parsed = Source::parse(path, now);
        prop_assert!(parsed.is_ok(), "{:?}\n{now}", parsed.err());
        prop_assert!(is_within(text.trim_end(), now), "something of the user's is gone:\n{now}");
    }
    let tasks: Vec<String> = entries(&after[1], "tasks", "label");
    let ours = 2 + usize::from(first.opens_children());
    prop_assert_eq!(tasks.iter().filter(|name| Entry::parse(name).is_some()).count(), ours);

    // A second time, with or without saying what is chosen already: nothing.
    for again in [request.clone(), Request { debugger: None, ..Request::new(Workers::nproc(9)) }] {
        update(dir.path(), &project(), &again).unwrap();
        prop_assert_eq!(&read(dir.path()), &after);
    }

    // Another debugger, more ranks, optimized: still all of the user's.
    let other =
        Request { debugger: Some(second), workers: Some(Workers::nproc(ranks % 3 + 1)), release: true, ..request };
    update(dir.path(), &project(), &other).unwrap();
    let changed = read(dir.path());
    // But for the space in a list that is empty again: gdb has no inputs.
    let solid = |text: &str| text.split_whitespace().collect::<String>();
    for now in [&changed[0], &changed[1]] {
        prop_assert!(Source::parse(path, now).is_ok(), "{now}");
        prop_assert!(is_within(&solid(text), &solid(now)), "something of the user's is gone:\n{now}");
    }
    update(dir.path(), &project(), &Request::new(Workers::nproc(7))).unwrap();
    prop_assert_eq!(&read(dir.path()), &changed);

    // Without ours, what was there before.
    update(dir.path(), &nothing(), &Request::new(Workers::nproc(1))).unwrap();
    let last = &read(dir.path())[0];
    if ends_its_lists_on_own_lines(&before) && before.has("version") {
        prop_assert_eq!(last, text);
    } else if before.has("version") && LISTS.iter().all(|key| before.has(key)) {
        prop_assert_eq!(tokens(last), tokens(text));
    } else {
        let mut now = tokens(last).into_iter();
        let kept = tokens(text).into_iter().all(|token| now.any(|other| other == token));
        prop_assert!(kept, "something of the user's is gone:\n{last}");
    }
    Ok(())
}

fn entries(text: &str, key: &str, name: &str) -> Vec<String> {
    let source = Source::parse(Path::new("x"), text).unwrap();
    let elements = source.list(key).unwrap().into_iter().flat_map(|array| &array.elements).map(Json::from_ast);
    elements.filter_map(|element| Some(element.get(name)?.text()?.to_owned())).collect()
}

#[test]
fn odd_files_keep_everything_that_the_user_wrote() {
    let debugger = || prop::sample::select(&Debugger::ALL[..]);
    let cases = crate::fuzz::cases(400);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let given = (file(), debugger(), debugger(), 1_usize..4);
    TestRunner::new(config).run(&given, |(text, first, second, ranks)| holds(&text, first, second, ranks)).unwrap();
}

#[test]
fn generator_produces_files_that_can_and_that_cannot_be_edited() {
    // A property that only ever sees simple files would say nothing.
    let mut runner = TestRunner::deterministic();
    let texts: Vec<String> = (0..300).map(|_| file().new_tree(&mut runner).unwrap().current()).collect();
    let editable =
        texts.iter().filter(|text| Source::parse(Path::new("x"), text).unwrap().list("configurations").is_ok());
    assert!(editable.count() > 250);
    let has = |what: &str| texts.iter().filter(|text| text.contains(what)).count();
    for what in ["//", "/*", "\r\n", "\u{feff}", "\t", "\"configurations\"", "\"compounds\"", "ddp: mine"] {
        assert!(has(what) > 20, "{what:?}: {}", has(what));
    }
    let exact = texts.iter().filter(|text| {
        let source = Source::parse(Path::new("x"), text).unwrap();
        ends_its_lists_on_own_lines(&source) && source.has("version")
    });
    assert!(exact.count() > 20);
}

/// The same file, as somebody formats it who loves comments and trailing commas.
fn reformatted(text: &str, between: &[String], trailing: bool) -> String {
    let mut out = String::new();
    let mut last = "";
    for (at, token) in tokens(text).into_iter().enumerate() {
        if trailing && ["]", "}"].contains(&token) && !["[", "{", ","].contains(&last) {
            out.push(',');
        }
        out += token;
        out += &between[at % between.len()];
        last = token;
    }
    out
}

fn holds_inside_ours(
    first: &Request,
    second: &Request,
    between: &[String],
    trailing: bool,
) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    update(dir.path(), &project(), first).unwrap();
    let odd: Vec<String> = read(dir.path()).iter().map(|text| reformatted(text, between, trailing)).collect();
    for (name, text) in ["launch.json", "tasks.json", "extensions.json", "settings.json"].iter().zip(&odd) {
        fs::write(dir.path().join(".vscode").join(name), text).unwrap();
    }
    // It says what it said, so nothing is to be done.
    update(dir.path(), &project(), &Request::new(Workers::nproc(9))).unwrap();
    prop_assert_eq!(&read(dir.path()), &odd);

    update(dir.path(), &project(), second).unwrap();
    let after = read(dir.path());
    let (now, fresh) = (&after[0], tests::generated(&project(), second));
    let sorted = |text: &str, key| {
        let mut names = entries(text, key, if key == "inputs" { "id" } else { "name" });
        names.sort_unstable();
        names
    };
    for text in &after {
        prop_assert!(Source::parse(Path::new("x"), text).is_ok(), "{text}");
    }
    // A release variant that was there stays.
    if first.release == second.release {
        for key in LISTS {
            prop_assert_eq!(sorted(now, key), sorted(&fresh[0], key));
        }
    }
    update(dir.path(), &project(), second).unwrap();
    prop_assert_eq!(read(dir.path()), after);
    Ok(())
}

#[test]
fn generated_entries_are_updated_whatever_their_formatting() {
    let request = || {
        let debugger = prop::sample::select(&Debugger::ALL[..]);
        (debugger, 1_usize..4, any::<bool>()).prop_map(|(debugger, ranks, release)| Request {
            debugger: Some(debugger),
            workers: Some(Workers::nproc(ranks)),
            release,
            ..Request::new(Workers::nproc(1))
        })
    };
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    let between = prop::collection::vec(trivia(), 1..40);
    let given = (request(), request(), between, any::<bool>());
    let result = TestRunner::new(config)
        .run(&given, |(first, second, between, trailing)| holds_inside_ours(&first, &second, &between, trailing));
    result.unwrap();
}
