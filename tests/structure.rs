//! The structure of `src`: imports between folders point downward, and no circle of files
//! import each other. ARCHITECTURE.md describes the folders.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The top folders and files of `src`, lowest first. A module imports from its own row and
/// from the rows before it.
const ORDER: [&[&str]; 22] = [
    &["error", "random", "sync"],
    &["tls"],
    &["semantics"],
    &["key"],
    &["store"],
    &["body"],
    &["clients"],
    &["flight"],
    &["site"],
    &["upstream"],
    &["origin"],
    &["cluster"],
    &["peer"],
    &["observe"],
    &["config"],
    &["edge"],
    &["conn"],
    &["http1"],
    &["admin"],
    &["server"],
    &["embed"],
    &["cli", "fuzz"],
];

/// The names on the way to a module, such as `["store", "entry"]`, or to an item in one.
type Names = Vec<String>;

/// One file: the paths into the crate that its code names.
struct Source {
    paths: Vec<Names>,
    /// The items that the file re-exports, by the name that they have there.
    exports: BTreeMap<String, Names>,
    /// Whether the file holds nothing but declarations and re-exports of modules.
    is_door: bool,
}

struct Crate(BTreeMap<Names, Source>);

impl Crate {
    fn read(root: &Path) -> Self {
        let texts: BTreeMap<Names, String> =
            files(root).iter().map(|path| (module_of(root, path), code(&fs::read_to_string(path).unwrap()))).collect();
        let sources = texts.iter().map(|(module, code)| {
            let is_child = |name: &String| texts.contains_key(&joined(module, [name.clone()]));
            (module.clone(), Source::of(module, code, is_child))
        });
        Self(sources.collect())
    }

    /// Returns the file that defines the item of a path, past re-exports.
    fn file_of(&self, path: &[String]) -> Option<Names> {
        let len = (1..=path.len()).rev().find(|len| self.0.contains_key(&path[..*len]))?;
        let (module, rest) = path.split_at(len);
        let source = &self.0[module];
        match rest.first().and_then(|name| source.exports.get(name)) {
            Some(item) if source.is_door => self.file_of(item),
            _ => Some(module.to_vec()),
        }
    }

    fn imports(&self) -> BTreeMap<&Names, BTreeSet<Names>> {
        let imports = self.0.iter().filter(|(_, source)| !source.is_door).map(|(module, source)| {
            let files = source.paths.iter().filter_map(|path| self.file_of(path));
            (module, files.filter(|file| file != module).collect())
        });
        imports.collect()
    }
}

impl Source {
    fn of(module: &Names, code: &str, is_child: impl Fn(&String) -> bool) -> Self {
        let parent = &module[..module.len().saturating_sub(1)];
        let mut paths = Vec::new();
        for (start, base) in [("crate::", &[][..]), ("super::", parent), ("self::", module)] {
            paths.extend(after(code, start).into_iter().flat_map(expanded).map(|path| joined(base, path)));
        }
        let used = after(code, "use ").into_iter().flat_map(expanded);
        let of_children: Vec<_> = used.filter(|path| is_child(&path[0])).map(|path| joined(module, path)).collect();
        paths.extend(of_children.iter().cloned());
        let exports = of_children.into_iter().filter_map(|path| Some((path.last()?.clone(), path))).collect();
        Self { paths, exports, is_door: is_door(code) }
    }
}

/// Returns the code of a file, without comments and unit tests.
fn code(text: &str) -> String {
    let tests = ["\n#[cfg(test)]\nmod ", "\n#[cfg(test)]\npub(crate) mod "];
    let end = tests.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn is_door(code: &str) -> bool {
    let statements = code.split(';').map(|statement| {
        let lines = statement.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        lines.collect::<Vec<_>>().join(" ").trim().to_owned()
    });
    let starts = ["", "pub ", "pub(crate) ", "pub(super) "];
    let mut statements = statements.filter(|statement| !statement.is_empty());
    statements.all(|statement| {
        starts
            .iter()
            .filter_map(|start| statement.strip_prefix(start))
            .any(|statement| statement.starts_with("mod ") && !statement.contains('{') || statement.starts_with("use "))
    })
}

/// Returns the trees of paths, such as `a::{b, c}`, that follow `start` in the code.
fn after<'a>(code: &'a str, start: &str) -> Vec<&'a str> {
    let begins = code.match_indices(start).filter(|(at, _)| {
        !code[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
    });
    let trees = begins.map(|(at, _)| &code[at + start.len()..]).map(|rest| {
        let mut depth = 0_usize;
        let end = rest.find(|c: char| match c {
            '{' => {
                depth += 1;
                false
            }
            '}' if depth > 0 => {
                depth -= 1;
                false
            }
            ':' | '_' => false,
            ',' | ' ' | '\n' | '*' => depth == 0,
            c => !c.is_alphanumeric(),
        });
        &rest[..end.unwrap_or(rest.len())]
    });
    trees.filter(|tree| !tree.is_empty()).collect()
}

/// Returns the paths of a tree: `a::{b, c::d}` has `a::b` and `a::c::d`.
fn expanded(tree: &str) -> Vec<Names> {
    let names = |path: &str| -> Names {
        let name = path.split(" as ").next().unwrap_or_default();
        name.split("::").map(str::trim).filter(|name| !name.is_empty() && *name != "self").map(str::to_owned).collect()
    };
    let Some((base, group)) = tree.split_once('{') else {
        return Some(names(tree)).filter(|path| !path.is_empty()).into_iter().collect();
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut depth, mut parts) = (0_usize, vec![String::new()]);
    for c in group.chars() {
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => {
                depth = (depth + usize::from(c == '{')).saturating_sub(usize::from(c == '}'));
                parts.last_mut().expect("there is a first one").push(c);
            }
        }
    }
    let base = names(base);
    let of_part = |part: &String| match part.trim() {
        "" => Vec::new(),
        "self" => vec![base.clone()],
        part => expanded(part).into_iter().map(|path| joined(&base, path)).collect(),
    };
    parts.iter().flat_map(of_part).collect()
}

fn joined(base: &[String], path: impl IntoIterator<Item = String>) -> Names {
    base.iter().cloned().chain(path).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn module_of(root: &Path, path: &Path) -> Names {
    let path = path.strip_prefix(root).unwrap().with_extension("");
    path.iter().map(|name| name.to_str().unwrap().to_owned()).filter(|name| name != "mod").collect()
}

fn library() -> Crate {
    let mut library = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    // They bind everything together.
    library.0.retain(|module, _| module != &["lib"] && module != &["main"]);
    library
}

#[test]
fn every_top_module_has_a_place_in_the_order() {
    let tops: BTreeSet<_> = library().0.into_keys().map(|module| module[0].clone()).collect();
    let ordered: BTreeSet<_> = ORDER.iter().copied().flatten().map(|&name| name.to_owned()).collect();
    assert_eq!(tops, ordered);
}

#[test]
fn imports_between_top_modules_point_downward() {
    let row = |module: &Names| ORDER.iter().position(|row| row.contains(&&*module[0])).unwrap();
    let library = library();
    let upward: Vec<_> = library
        .imports()
        .into_iter()
        .flat_map(|(module, files)| files.into_iter().map(move |file| (module, file)))
        .filter(|(module, file)| row(file) > row(module))
        .map(|(module, file)| format!("{} imports {}", module.join("::"), file.join("::")))
        .collect();
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn no_circle_of_files_import_each_other() {
    let library = library();
    let imports = library.imports();
    let reached = |start: &Names| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(module) = open.pop() {
            let files = imports.get(module).into_iter().flatten();
            open.extend(files.filter(|file| reached.insert((*file).clone())));
        }
        reached
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|module| (*module, reached(module))).collect();
    let circles = imports.iter().filter(|(module, _)| reached[**module].contains(**module)).map(|(module, files)| {
        let files = files.iter().filter(|file| reached.get(file).is_some_and(|reached| reached.contains(*module)));
        format!("{} -> {}", module.join("::"), files.map(|file| file.join("::")).collect::<Vec<_>>().join(", "))
    });
    let circles: Vec<_> = circles.collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

/// The reading of sources finds upward imports and circles where they are.
#[test]
fn imports_are_found_in_every_spelling() {
    let code = code(
        "use crate::a::{self, b::C, d as e};\nuse super::f;\n// use crate::no;\nlet x = crate::g::h(1);\n#[cfg(test)]\nmod tests { use crate::t; }",
    );
    let module = ["m".to_owned(), "n".to_owned()].to_vec();
    let source = Source::of(&module, &code, |_| false);
    let paths: Vec<_> = source.paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["a", "a::b::C", "a::d", "g::h", "m::f"]);
    assert!(!source.is_door);
    assert!(is_door(
        "//! A room.\n#[path = \"x\"]\npub(crate) mod a;\npub use a::{B, C};\n".split_once('\n').unwrap().1
    ));
}
