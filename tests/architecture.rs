//! Keeps the plan of the rooms that `src/lib.rs` draws: a file imports only from floors below its own (or from a room of
//! the same floor that [`SIDEWAYS`] names), no two files import each other, no longer circle of files exists, each outside
//! crate stays in its room, and no room grows beyond a fifth of the code.
//!
//! The test reads tokens, not text: every path that begins with `crate::`, `super::`, `self::` or the name of a module,
//! in `use` lines and in the middle of code, macros included. Items under `#[cfg(test)]` do not count. A name that a
//! module re-exports counts for the file that the name comes from.
//!
//! [`EXCEPTIONS`] lists what is wrong today. The list only shrinks: an exception that is no longer needed fails as well.

#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The findings of today that are accepted until they are mended. Nothing is ever added here.
const EXCEPTIONS: &[&str] = &[];

/// Rooms of one floor that may import each other, in one direction only: the first imports the second.
const SIDEWAYS: &[(&str, &str)] = &[];

/// Outside crates, by the beginning of their names, and the only places that may know them.
const CRATES: &[(&str, &[&str])] =
    &[("clap", &["cli", "main"]), ("tokio_postgres", &["postgres"]), ("aws_", &["store::s3"])];

/// No room may hold this share of all lines.
const LARGEST_ROOM: f64 = 0.20;

/// A module's path, `crate` left out: `store::s3`. `src/lib.rs` is the empty path.
type Module = String;

/// The files of a crate, by the module that each is.
struct Tree {
    files: BTreeMap<Module, File>,
    floors: Vec<Vec<String>>,
}

/// One file outside its tests.
#[derive(Default)]
struct File {
    lines: usize,
    /// Every path in the code with the line where it stands, absolute where it begins with `crate`, `super` or `self`.
    paths: Vec<(Vec<String>, usize)>,
    /// What `use` lines bring into the module: the name and the whole path behind it.
    names: BTreeMap<String, Vec<String>>,
    /// Single words of the code, for the names of outside crates.
    words: BTreeMap<String, usize>,
    /// The modules declared in this file for tests only.
    test_modules: Vec<String>,
}

fn is(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<TokenStream> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group.stream()),
        _ => None,
    }
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    is(tokens.get(at), ':') && is(tokens.get(at + 1), ':')
}

/// Skips the item that `#[cfg(test)]` stands before, further attributes included; returns the place after it.
fn after_item(tokens: &[TokenTree], mut at: usize) -> usize {
    let mut in_use = false;
    while let Some(token) = tokens.get(at) {
        at += 1;
        in_use |= word(Some(token)).is_some_and(|word| word == "use");
        if is(Some(token), ';') || (!in_use && group(Some(token), Delimiter::Brace).is_some()) {
            break;
        }
    }
    at
}

impl File {
    fn read(module: &[String], text: &str) -> Self {
        let tokens: TokenStream = text.parse().expect("the file is Rust");
        let mut file = Self { lines: text.lines().count(), ..Self::default() };
        file.walk(module, tokens);
        file
    }

    fn walk(&mut self, module: &[String], stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let attribute = is(Some(token), '#').then(|| group(tokens.get(at + 1), Delimiter::Bracket)).flatten();
            if attribute.is_some_and(|inner| inner.to_string().replace(' ', "") == "cfg(test)") {
                let end = after_item(&tokens, at + 2);
                if end - at >= 3 && is(tokens.get(end - 1), ';') && word(tokens.get(end - 3)).as_deref() == Some("mod")
                {
                    self.test_modules.extend(word(tokens.get(end - 2)));
                }
                at = end;
                continue;
            }
            match token {
                TokenTree::Ident(ident) if ident == "use" => at = self.read_use(module, &tokens, at + 1),
                TokenTree::Ident(ident) if ident == "mod" && tokens.get(at + 2).is_some_and(|t| !is(Some(t), ';')) => {
                    let name = word(tokens.get(at + 1)).unwrap_or_default();
                    if let Some(inner) = group(tokens.get(at + 2), Delimiter::Brace) {
                        self.walk(&[module, &[name]].concat(), inner);
                    }
                    at += 3;
                }
                TokenTree::Ident(_) => at = self.read_path(module, &tokens, at),
                TokenTree::Group(inner) => {
                    self.walk(module, inner.stream());
                    at += 1;
                }
                _ => at += 1,
            }
        }
    }

    /// Reads a path in the middle of code and returns the place after it.
    fn read_path(&mut self, module: &[String], tokens: &[TokenTree], start: usize) -> usize {
        let line = tokens[start].span().start().line;
        let mut path = vec![word(tokens.get(start)).unwrap_or_default()];
        let mut at = start + 1;
        while is_separator(tokens, at) {
            let Some(next) = word(tokens.get(at + 2)) else { break };
            path.push(next);
            at += 3;
        }
        self.words.entry(path[0].clone()).or_insert(line);
        let follows = start > 0 && (is(tokens.get(start - 1), '.') || is(tokens.get(start - 1), ':'));
        if path.len() > 1 && (!follows || matches!(&*path[0], "crate" | "super" | "self")) {
            self.paths.push((absolute(module, path), line));
        }
        at
    }

    /// Reads a `use` tree up to its semicolon and returns the place after it.
    fn read_use(&mut self, module: &[String], tokens: &[TokenTree], start: usize) -> usize {
        let end = (start..tokens.len()).find(|&at| is(tokens.get(at), ';')).unwrap_or(tokens.len());
        self.read_tree(module, &[], &tokens[start..end]);
        end + 1
    }

    fn read_tree(&mut self, module: &[String], prefix: &[String], tokens: &[TokenTree]) {
        for branch in tokens.split(|token| is(Some(token), ',')).filter(|branch| !branch.is_empty()) {
            let line = branch[0].span().start().line;
            let mut path = prefix.to_vec();
            let mut name = None;
            let mut at = 0;
            while let Some(token) = branch.get(at) {
                match token {
                    TokenTree::Ident(ident) if ident == "as" => {
                        name = word(branch.get(at + 1));
                        at += 1;
                    }
                    TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
                    TokenTree::Ident(ident) => path.push(ident.to_string()),
                    TokenTree::Group(inner) => {
                        let inner: Vec<TokenTree> = inner.stream().into_iter().collect();
                        self.read_tree(module, &path, &inner);
                        path.clear();
                        break;
                    }
                    _ => {}
                }
                at += 1;
            }
            let Some(last) = path.last().cloned() else { continue };
            self.words.entry(path[0].clone()).or_insert(line);
            let path = absolute(module, path);
            self.names.insert(name.unwrap_or(last), path.clone());
            self.paths.push((path, line));
        }
    }
}

/// The path from the crate's root where it begins with `crate`, `super` or `self`; any other as it is.
fn absolute(module: &[String], path: Vec<String>) -> Vec<String> {
    let mut base = match &*path[0] {
        "crate" | "pgstow" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return path,
    };
    let mut rest = path.as_slice();
    while let Some((first, after)) = rest.split_first() {
        match &**first {
            "crate" | "pgstow" | "self" => {}
            "super" => drop(base.pop()),
            _ => break,
        }
        rest = after;
    }
    ["crate".to_owned()].into_iter().chain(base).chain(rest.iter().cloned()).collect()
}

/// The floors of the plan, from the top, as the list in the head of `src/lib.rs` names them.
fn floors(lib: &str) -> Vec<Vec<String>> {
    let mut floors = vec![vec!["main".to_owned()]];
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! - ")) {
        let rooms = line.split_once(": ").map_or(line, |(rooms, _)| rooms);
        floors.push(rooms.split('`').skip(1).step_by(2).map(str::to_owned).collect());
    }
    floors
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

impl Tree {
    /// Of pairs of a file's path below `src` and its text.
    fn new<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut tree = Self { files: BTreeMap::new(), floors: Vec::new() };
        let mut for_tests: Vec<Module> = Vec::new();
        for (path, text) in sources {
            let name = path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
            if name == "lib" {
                tree.floors = floors(text);
                for_tests = File::read(&[], text).test_modules;
                continue;
            }
            let module: Vec<String> = name.split("::").map(str::to_owned).collect();
            tree.files.insert(name, File::read(if path == "main.rs" { &[] } else { &module }, text));
        }
        for (module, file) in &tree.files {
            for_tests.extend(file.test_modules.iter().map(|test| format!("{module}::{test}")));
        }
        tree.files.retain(|module, _| !for_tests.contains(module));
        tree
    }

    fn read(root: &Path) -> Self {
        fn collect(folder: &Path, root: &Path, into: &mut Vec<(String, String)>) {
            for entry in std::fs::read_dir(folder).expect("src can be listed") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    collect(&path, root, into);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(root).expect("below src").to_string_lossy().into_owned();
                    into.push((name, std::fs::read_to_string(&path).expect("a readable file")));
                }
            }
        }
        let mut sources = Vec::new();
        collect(root, root, &mut sources);
        Self::new(sources.iter().map(|(path, text)| (path.as_str(), text.as_str())))
    }

    /// The file that a path leads to, re-exports followed; none for a path out of the crate.
    fn target(&self, from: &str, path: &[String]) -> Option<Module> {
        let mut path = path.to_vec();
        for _ in 0..16 {
            if path[0] != "crate" {
                // A module declared here, or a name that a `use` line brought.
                let child = format!("{from}::{}", path[0]);
                let here = &self.files[from];
                let mut start: Vec<String> = match here.names.get(&path[0]) {
                    Some(known) if known[0] == "crate" && (known.len() > 1) => known.clone(),
                    _ if self.files.contains_key(&child) => {
                        ["crate"].into_iter().chain(child.split("::")).map(str::to_owned).collect()
                    }
                    _ => return None,
                };
                start.extend(path[1..].iter().cloned());
                path = start;
            }
            let (module, rest) = (1..=path.len())
                .rev()
                .find_map(|end| {
                    let module = path[1..end].join("::");
                    self.files.contains_key(&module).then(|| (module, &path[end..]))
                })
                .unwrap_or_default();
            let Some(name) = rest.first() else { return (!module.is_empty()).then_some(module) };
            let Some(behind) = self.files.get(&module).and_then(|file| file.names.get(name)) else {
                return (!module.is_empty()).then_some(module);
            };
            let child = format!("{module}::{}", behind[0]);
            let start: Vec<String> = match &*behind[0] {
                "crate" => Vec::new(),
                _ if self.files.contains_key(&child) => {
                    ["crate"].into_iter().chain(module.split("::")).map(str::to_owned).collect()
                }
                _ => return Some(module),
            };
            path = start.iter().chain(behind).chain(&rest[1..]).cloned().collect();
        }
        panic!("{from}: {path:?} leads round in a circle of re-exports");
    }

    fn floor(&self, module: &str) -> Option<usize> {
        self.floors.iter().position(|rooms| rooms.iter().any(|name| name == room(module)))
    }

    /// The arrows between files: from, to, the line of the first import.
    fn arrows(&self) -> BTreeMap<(Module, Module), usize> {
        let mut arrows = BTreeMap::new();
        for (from, file) in &self.files {
            for (path, line) in &file.paths {
                if let Some(to) = self.target(from, path)
                    && to != *from
                {
                    arrows.entry((from.clone(), to)).or_insert(*line);
                }
            }
        }
        arrows
    }

    /// Everything that breaks the plan, each as one line that an exception may name, with the place to look at.
    fn findings(&self, sideways: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut findings = BTreeMap::new();
        let mut level = BTreeSet::new();
        for module in self.files.keys().filter(|module| self.floor(module).is_none()) {
            findings.insert(format!("{module} is in no room of the plan"), "src/lib.rs".to_owned());
        }
        for ((from, to), line) in self.arrows() {
            let place = format!("{from}, line {line}");
            let (Some(above), Some(below)) = (self.floor(&from), self.floor(&to)) else { continue };
            let inside = room(&from) == room(&to) || sideways.contains(&(room(&from), room(&to)));
            if above > below {
                findings.insert(format!("{from} imports {to}, up"), place);
            } else if above == below && !inside {
                findings.insert(format!("{from} imports {to}, sideways"), place);
            } else {
                level.insert((from, to));
            }
        }
        for (from, to) in level.clone() {
            if from < to && level.contains(&(to.clone(), from.clone())) {
                level.remove(&(from.clone(), to.clone()));
                level.remove(&(to.clone(), from.clone()));
                findings.insert(format!("{from} and {to} import each other"), String::new());
            }
        }
        for circle in circles(&level) {
            findings.insert(format!("circle of {}", circle.join(", ")), String::new());
        }
        for (module, file) in &self.files {
            for (name, homes) in CRATES {
                let home = homes.iter().any(|home| module == home || module.starts_with(&format!("{home}::")));
                let used = file.words.iter().find(|(word, _)| word.starts_with(name));
                if let (false, Some((_, line))) = (home, used) {
                    findings.insert(format!("{module} knows {name}"), format!("{module}, line {line}"));
                }
            }
        }
        findings
    }

    /// The lines of each room and the rooms that hold too many of them.
    fn sizes(&self) -> (BTreeMap<&str, usize>, Vec<String>) {
        let mut rooms: BTreeMap<&str, usize> = BTreeMap::new();
        for (module, file) in &self.files {
            *rooms.entry(room(module)).or_default() += file.lines;
        }
        let all: usize = rooms.values().sum();
        #[expect(clippy::cast_precision_loss, reason = "lines of code")]
        let large = rooms.iter().filter(|(_, lines)| **lines as f64 > LARGEST_ROOM * all as f64);
        let large = large.map(|(room, lines)| format!("{room} holds {lines} of {all} lines")).collect();
        (rooms, large)
    }
}

/// The circles among these arrows: sets of files of which each reaches every other.
fn circles(arrows: &BTreeSet<(Module, Module)>) -> Vec<Vec<Module>> {
    let reach = |start: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(from) = open.pop() {
            for (_, to) in arrows.iter().filter(|(other, _)| *other == from) {
                if seen.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = arrows.iter().map(|(from, _)| (from, reach(from))).collect();
    let mut circles = BTreeSet::new();
    for (from, seen) in &reached {
        let circle: Vec<Module> =
            seen.iter().filter(|to| reached.get(to).is_some_and(|back| back.contains(*from))).cloned().collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

#[test]
fn the_plan_of_the_rooms_is_kept() {
    let tree = Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(tree.files.len() > 100 && tree.arrows().len() > 300, "the test reads next to nothing");
    let findings = tree.findings(SIDEWAYS);
    let mut wrong = String::new();
    for (finding, place) in findings.iter().filter(|(finding, _)| !EXCEPTIONS.contains(&finding.as_str())) {
        writeln!(wrong, "    {finding:?},{}{place}", if place.is_empty() { "" } else { " // " })
            .expect("writing to a String does not fail");
    }
    for exception in EXCEPTIONS.iter().filter(|exception| !findings.contains_key(**exception)) {
        writeln!(wrong, "    no longer needed, take it out of the list: {exception:?}")
            .expect("writing to a String does not fail");
    }
    assert!(wrong.is_empty(), "the plan of src/lib.rs is broken:\n{wrong}");
}

#[test]
fn no_room_holds_a_fifth_of_the_code() {
    let tree = Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let (rooms, large) = tree.sizes();
    assert!(large.is_empty(), "{large:?} in {rooms:?}");
}

/// A small crate of three floors: `cli`, then `backup` and `restore`, then `store`.
const PLAN: &str = "//! - [`cli`]: verbs;\n//! - `backup`, `restore`: engines;\n//! - `store`: objects.\n";

fn planted(sources: &[(&str, &str)]) -> Vec<String> {
    let tree = Tree::new(std::iter::once(("lib.rs", PLAN)).chain(sources.iter().copied()));
    tree.findings(&[]).into_keys().collect()
}

#[test]
fn an_arrow_down_is_no_finding() {
    let down =
        "use crate::store::{self, dir::Dir as D};\nfn f() { store::dir::open(); format!(\"{}\", crate::store::x()); }";
    let sources = [("backup.rs", down), ("store/mod.rs", "pub mod dir;"), ("store/dir.rs", "pub struct Dir;")];
    assert_eq!(planted(&sources), [""; 0]);
}

#[test]
fn an_arrow_up_is_found_in_every_form() {
    for up in [
        "use crate::cli::Flags;",
        "use crate::{cli::{Flags, Other as _}};",
        "use std::io; use crate::{error, cli as c};",
        "fn f() { crate::cli::run() }",
        "fn f() { assert!(crate::cli::ok()) }",
        "fn f(x: &crate::cli::Flags) {}",
        "mod inner { use super::super::cli::Flags; }",
        "pub use super::cli::Flags;",
        "#[cfg(test)] mod tests { fn x() {} } use crate::cli::Flags;",
        "#[cfg(test)] use x::{a, b}; fn f() { crate::cli::run() }",
    ] {
        let found = planted(&[("store.rs", up), ("cli.rs", "pub struct Flags; pub fn run() {}")]);
        assert_eq!(found, ["store imports cli, up"], "{up}");
    }
}

#[test]
fn an_arrow_up_in_tests_does_not_count() {
    for up in [
        "#[cfg(test)] mod tests { use crate::cli::Flags; }",
        "#[cfg(test)] #[allow(unused)] fn f() { crate::cli::run() }",
        "#[cfg(test)] use crate::{cli::Flags, cli::Other};",
        "// use crate::cli::Flags;\n/// [`crate::cli::Flags`]\nfn f() { g(\"crate::cli::Flags\") }",
    ] {
        assert_eq!(planted(&[("store.rs", up), ("cli.rs", "pub struct Flags;")]), [""; 0], "{up}");
    }
    let sources = [
        ("store/mod.rs", "#[cfg(test)] mod tests;"),
        ("store/tests.rs", "use crate::cli::Flags;"),
        ("cli.rs", "pub struct Flags;"),
    ];
    assert_eq!(planted(&sources), [""; 0]);
}

#[test]
fn an_arrow_to_a_room_of_the_same_floor_is_found() {
    let sources = [("backup.rs", "use crate::restore::x;"), ("restore.rs", "pub fn x() {}")];
    assert_eq!(planted(&sources), ["backup imports restore, sideways"]);
    let tree = Tree::new(std::iter::once(("lib.rs", PLAN)).chain(sources));
    assert!(tree.findings(&[("backup", "restore")]).is_empty());
}

#[test]
fn two_files_that_import_each_other_are_found() {
    let sources = [
        ("store/mod.rs", "pub mod a; pub mod b;"),
        ("store/a.rs", "use crate::store::b::B; pub struct A;"),
        ("store/b.rs", "pub struct B; fn f() { super::a::go() }"),
    ];
    assert_eq!(planted(&sources), ["store::a and store::b import each other"]);
    let parent = [("store/mod.rs", "pub mod a; fn f() { a::go() } pub struct S;"), ("store/a.rs", "use super::S;")];
    assert_eq!(planted(&parent), ["store and store::a import each other"]);
}

#[test]
fn a_re_export_counts_for_the_file_behind_it() {
    let sources = [
        ("store/mod.rs", "mod a; mod b; pub use a::A; pub use self::b::B;"),
        ("store/a.rs", "use crate::store::B; pub struct A;"),
        ("store/b.rs", "pub struct B;"),
    ];
    assert_eq!(planted(&sources), [""; 0]);
    let circle = [sources[0], sources[1], ("store/b.rs", "use super::A; pub struct B;")];
    assert_eq!(planted(&circle), ["store::a and store::b import each other"]);
}

#[test]
fn a_circle_of_three_files_is_found() {
    let sources = [
        ("store/mod.rs", "mod a; mod b; mod c;"),
        ("store/a.rs", "use crate::store::b::x;"),
        ("store/b.rs", "fn x() { crate::store::c::x() }"),
        ("store/c.rs", "use super::a as first;"),
    ];
    assert_eq!(planted(&sources), ["circle of store::a, store::b, store::c"]);
}

#[test]
fn an_outside_crate_in_the_wrong_room_is_found() {
    let sources = [
        ("cli.rs", "use clap::Parser;"),
        ("store/mod.rs", "pub mod s3; use clap::Args; #[derive(clap::ValueEnum)] enum E {}"),
        ("store/s3.rs", "use aws_sdk_s3::Client; fn f() { tokio_postgres::connect() }"),
        ("backup.rs", "fn f(x: aws_sdk_s3::Client) {}"),
    ];
    assert_eq!(planted(&sources), ["backup knows aws_", "store knows clap", "store::s3 knows tokio_postgres"]);
}

#[test]
fn a_file_outside_the_plan_is_found() {
    assert_eq!(planted(&[("util.rs", "")]), ["util is in no room of the plan"]);
    let lib = format!("{PLAN}#[cfg(test)]\nmod hostile;\n");
    let tree = Tree::new([("lib.rs", lib.as_str()), ("hostile.rs", "use crate::cli::Flags;"), ("cli.rs", "")]);
    assert!(tree.findings(&[]).is_empty());
}
