//! Configuration keys: those a text shows, and those the program knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use millpond::{config::Config, runtime::Environment};

/// No variables; every file that a setting names holds a secret.
pub(crate) struct SecretFiles;

impl Environment for SecretFiles {
    fn variables(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn read_file(&self, _path: &Path) -> io::Result<String> {
        Ok("a secret of the tests\n".to_owned())
    }
}

/// One `key: value` or `# key: value` of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The whole key, with dots between levels.
    pub(crate) key: String,
    /// What stands behind the colon; empty for a section.
    pub(crate) value: String,
    /// The line as it would be if the key were not behind a `#`.
    pub(crate) line: String,
}

/// Every key that `text` shows, also behind a `#`, in order. Needs one key on each line, and no list or
/// table over several lines.
pub(crate) fn shown(text: &str) -> Vec<Shown> {
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        let content = content.strip_prefix("# ").unwrap_or(content);
        let Some((name, value)) = split(content) else { continue };
        open.retain(|&(outer, _)| outer < indent);
        open.push((indent, name));
        let path: Vec<&str> = open.iter().map(|&(_, name)| name).collect();
        let (key, value) = (path.join("."), value.trim().to_owned());
        found.push(Shown { key, value, line: format!("{}{content}", " ".repeat(indent)) });
    }
    found
}

/// Splits `key: value`. Prose is no key: it has spaces or capitals before its first colon.
fn split(content: &str) -> Option<(&str, &str)> {
    let (name, value) = content.split_once(':')?;
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_key = !name.is_empty() && name.bytes().all(is_word);
    (is_key && (value.is_empty() || value.starts_with(' '))).then_some((name, value))
}

/// The values in force under the configuration `text`, by key.
pub(crate) fn in_force(text: &str) -> BTreeMap<String, String> {
    let loaded = Config::parse("given.yml", text, &SecretFiles).expect("the text is accepted");
    let with_value = |shown: Shown| (!shown.value.is_empty()).then_some((shown.key, shown.value));
    shown(&loaded.effective).into_iter().filter_map(with_value).collect()
}

/// Every key that the program knows, sections included. It lists them where it meets an unknown one.
pub(crate) fn known() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut sections = vec![String::new()];
    while let Some(section) = sections.pop() {
        for name in known_in(&section).unwrap_or_default() {
            let key = if section.is_empty() { name } else { format!("{section}.{name}") };
            if known_in(&key).is_some() {
                sections.push(key.clone());
            }
            found.insert(key);
        }
    }
    found
}

/// The names known in a section; `None` if it is none.
fn known_in(section: &str) -> Option<Vec<String>> {
    let unknown = "no_such_name";
    let levels = section.split('.').filter(|level| !level.is_empty());
    let text = levels
        .rev()
        .fold(format!("{{{unknown}: 1}}"), |inner, level| format!("{{{level}: {inner}}}"));
    let error = Config::parse("probe.yml", &text, &SecretFiles).err()?;
    // A section where a list of them may stand is the first one of the list.
    let is_it = |key: &str| {
        key.replace(".0.", ".")
            .strip_prefix(section)
            .is_some_and(|rest| rest.trim_start_matches('.') == unknown)
    };
    let problem = error.problems.into_iter().find(|problem| is_it(&problem.key))?;
    let (_, names) = problem.message.split_once("known here: ")?;
    Some(names.split(", ").map(str::to_owned).collect())
}
