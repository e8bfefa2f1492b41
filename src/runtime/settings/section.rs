//! One level of the configuration, read key by key.

use std::{cell::RefCell, collections::BTreeMap, ops::RangeInclusive, path::PathBuf, rc::Rc};

use super::{
    Problem, Secret, Setting, tree,
    tree::{Node, State},
};

/// The keys at one level of the configuration. Dropping it reports the keys that nobody asked for.
pub struct Section<'e> {
    path: String,
    values: BTreeMap<String, Node>,
    /// Names that were asked for, to be listed beside an unknown one.
    known: Vec<&'static str>,
    /// The environment variables that values came from.
    variables: BTreeMap<&'static str, String>,
    state: Rc<RefCell<State<'e>>>,
}

impl<'e> Section<'e> {
    pub(super) fn new(path: String, node: Node, state: Rc<RefCell<State<'e>>>) -> Self {
        let (values, stray) = match node {
            Node::Branch(values) => (values, None),
            Node::Leaf { ref text, .. } if text.is_empty() => (BTreeMap::new(), None),
            other => (BTreeMap::new(), Some(other)),
        };
        let section = Self { path, values, known: Vec::new(), variables: BTreeMap::new(), state };
        if let Some(stray) = stray {
            let origin = section.origin_of(&stray);
            let key = section.path.clone();
            section.report(origin, key, Some(written(&stray)), "keys and values are expected here");
        }
        section
    }

    /// A level below this one; empty where the configuration does not have it.
    pub fn section(&mut self, name: &'static str) -> Self {
        self.optional_section(name)
            .unwrap_or_else(|| self.child(name, Node::Branch(BTreeMap::new())))
    }

    /// A level below this one, if the configuration has it.
    pub fn optional_section(&mut self, name: &'static str) -> Option<Self> {
        let node = self.take(name)?;
        Some(self.child(name, node))
    }

    /// The levels below this one that stand in a list under `name`; `None` if the configuration does not
    /// have the list. A single level, without a list around it, is a list of one.
    ///
    /// From the environment comes either the whole list, as `[{key: value}, {key: value}]`, or any key of
    /// an item, by its number: `MILLPOND_NAME__0__KEY`. Numbers without a gap make a list of their own.
    pub fn sections(&mut self, name: &'static str) -> Option<Vec<Self>> {
        let node = self.take(name)?;
        let Some(items) = node.sections() else {
            let message = "a list of keys and values is expected";
            self.report(self.origin_of(&node), self.key(name), Some(written(&node)), message);
            return Some(Vec::new());
        };
        if items.is_empty() {
            self.record(name, "[]".to_owned());
        }
        let path = self.key(name);
        let item =
            |(number, node)| Self::new(format!("{path}.{number}"), node, Rc::clone(&self.state));
        Some(items.into_iter().enumerate().map(item).collect())
    }

    /// As [`Section::sections`], with one level that holds `default` where the configuration has no list.
    pub fn sections_or(
        &mut self,
        name: &'static str,
        default: &[(&'static str, &'static str)],
    ) -> Vec<Self> {
        if let Some(sections) = self.sections(name) {
            return sections;
        }
        let leaf = |text: &str| Node::Leaf { text: text.to_owned(), variable: None };
        let values = default.iter().map(|(key, text)| ((*key).to_owned(), leaf(text))).collect();
        let path = format!("{}.0", self.key(name));
        vec![Self::new(path, Node::Branch(values), Rc::clone(&self.state))]
    }

    /// Whether the configuration has a key that was not read yet, be its value accepted or not.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of a key, or its default.
    pub fn get<T: Setting>(&mut self, name: &'static str, default: T) -> T {
        let value = self.read(name).unwrap_or(default);
        self.record(name, tree::scalar(&value.show()));
        value
    }

    /// The value of a key, or its default; a value beyond `limits` is a problem.
    pub fn get_within<T: Setting + PartialOrd>(
        &mut self,
        name: &'static str,
        default: T,
        limits: RangeInclusive<T>,
    ) -> T {
        let value = self.get(name, default);
        self.check_limits(name, &value, &limits);
        value
    }

    /// The value of a key that has no default.
    pub fn optional<T: Setting>(&mut self, name: &'static str) -> Option<T> {
        self.read::<T>(name).inspect(|value| self.record(name, tree::scalar(&value.show())))
    }

    /// As [`Section::get_within`], for a key that has no default.
    pub fn optional_within<T: Setting + PartialOrd>(
        &mut self,
        name: &'static str,
        limits: RangeInclusive<T>,
    ) -> Option<T> {
        self.optional(name).inspect(|value| self.check_limits(name, value, &limits))
    }

    /// The values of a key that takes several; a single value is a list of one.
    pub fn list<T: Setting>(&mut self, name: &'static str, default: Vec<T>) -> Vec<T> {
        let values = self.read_list(name).unwrap_or(default);
        self.record_list(name, &values);
        values
    }

    /// As [`Section::list`], for a key that has no default.
    pub fn optional_list<T: Setting>(&mut self, name: &'static str) -> Option<Vec<T>> {
        self.read_list(name).inspect(|values| self.record_list(name, values))
    }

    /// A table whose keys are free, such as headers.
    pub fn table(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let Some(node) = self.take(name) else { return BTreeMap::new() };
        let mut section = self.child(name, node);
        let values = std::mem::take(&mut section.values);
        let mut table = BTreeMap::new();
        for (key, node) in values {
            if let Some(text) = section.read_node::<String>(&key, &node) {
                table.insert(key, text);
            }
        }
        if !table.is_empty() {
            self.record(name, serde_json::to_string(&table).expect("texts are JSON"));
        }
        table
    }

    /// A secret: given under `name`, or in the file given under `name_file`.
    pub fn secret(&mut self, name: &'static str, file_name: &'static str) -> Option<Secret> {
        let direct: Option<String> = self.read(name);
        let file: Option<PathBuf> = self.read(file_name);
        if direct.is_some() && file.is_some() {
            self.problem(name, None, format!("give either {name} or {file_name}, not both"));
        }
        let from_file = file.is_some();
        let text = match file {
            None => direct,
            Some(path) => {
                self.record(file_name, tree::scalar(&path.show()));
                let text = self.state.borrow().environment.read_file(&path);
                match text {
                    Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
                    Err(error) => {
                        self.problem(
                            file_name,
                            Some(path.show()),
                            format!("cannot be read: {error}"),
                        );
                        None
                    }
                }
            }
        };
        let secret = text.map(Secret::new);
        if secret.is_some() && !from_file {
            self.record(name, "(hidden)".to_owned());
        }
        secret
    }

    /// Reports something wrong with `name` that only its module can see.
    pub fn problem(&self, name: &str, value: Option<String>, message: impl Into<String>) {
        let origin = self.variables.get(name).cloned();
        let origin = origin.unwrap_or_else(|| self.state.borrow().file.clone());
        self.report(origin, self.key(name), value, message);
    }

    fn check_limits<T: Setting + PartialOrd>(
        &self,
        name: &str,
        value: &T,
        limits: &RangeInclusive<T>,
    ) {
        if !limits.contains(value) {
            let (least, most) = (limits.start().show(), limits.end().show());
            self.problem(name, Some(value.show()), format!("from {least} to {most} is expected"));
        }
    }

    fn read<T: Setting>(&mut self, name: &'static str) -> Option<T> {
        let node = self.take(name)?;
        self.read_node(name, &node)
    }

    fn read_list<T: Setting>(&mut self, name: &'static str) -> Option<Vec<T>> {
        let node = self.take(name)?;
        Some(node.items().iter().filter_map(|item| self.read_node(name, item)).collect())
    }

    fn record_list<T: Setting>(&self, name: &str, values: &[T]) {
        let shown: Vec<String> = values.iter().map(|value| tree::scalar(&value.show())).collect();
        self.record(name, format!("[{}]", shown.join(", ")));
    }

    fn read_node<T: Setting>(&self, name: &str, node: &Node) -> Option<T> {
        let value = match node {
            Node::Leaf { text, .. } => T::read(text),
            Node::Branch(_) | Node::List(_) => None,
        };
        if value.is_none() {
            let message = format!("{} is expected", T::ACCEPTED);
            self.report(self.origin_of(node), self.key(name), Some(written(node)), message);
        }
        value
    }

    fn take(&mut self, name: &'static str) -> Option<Node> {
        self.known.push(name);
        let node = self.values.remove(name)?;
        self.variables.extend(node.variable().map(|variable| (name, variable.to_owned())));
        Some(node)
    }

    fn child(&self, name: &str, node: Node) -> Self {
        Self::new(self.key(name), node, Rc::clone(&self.state))
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn origin_of(&self, node: &Node) -> String {
        node.variable().map_or_else(|| self.state.borrow().file.clone(), str::to_owned)
    }

    fn record(&self, name: &str, value: String) {
        self.state.borrow_mut().effective.push((self.key(name), value));
    }

    fn report(
        &self,
        origin: String,
        key: String,
        value: Option<String>,
        message: impl Into<String>,
    ) {
        let problem = Problem { origin, key, value, message: message.into() };
        self.state.borrow_mut().problems.push(problem);
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        for (name, node) in std::mem::take(&mut self.values) {
            let message = format!("no such key; known here: {}", self.known.join(", "));
            self.report(self.origin_of(&node), self.key(&name), None, message);
        }
    }
}

impl std::fmt::Debug for Section<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Section").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A value as a person wrote it, shortened.
fn written(node: &Node) -> String {
    match node {
        Node::Leaf { text, .. } => text.chars().take(80).collect(),
        Node::List(_) => "a list".to_owned(),
        Node::Branch(_) => "keys and values".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path, time::Duration};

    use super::super::{ByteSize, Environment, Settings};
    use super::*;

    struct Table(Vec<(&'static str, &'static str)>);

    impl Environment for Table {
        fn variables(&self) -> Vec<(String, String)> {
            self.0.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        }

        fn read_file(&self, path: &Path) -> io::Result<String> {
            if path == Path::new("/secret") {
                Ok("s3cr3t\n".to_owned())
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        }
    }

    fn read(settings: &Settings<'_>) -> (ByteSize, Duration, Vec<String>, Option<Secret>) {
        let mut root = settings.root();
        let mut memory = root.section("memory");
        let buffers = memory.get("buffers", ByteSize::mebibytes(128));
        let wait = memory.get("wait", Duration::from_secs(3));
        let names = root.list("names", Vec::new());
        let key = root.secret("key", "key_file");
        (buffers, wait, names, key)
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let environment = Table(vec![
            ("MILLPOND_MEMORY__BUFFERS", "1GiB"),
            ("MILLPOND_NAMES", "[a, b]"),
            ("HOME", "x"),
        ]);
        let settings = Settings::new("m.yml", "memory: {buffers: 2MiB, wait: 5m}", &environment);
        let (buffers, wait, names, _) = read(&settings);
        assert_eq!((buffers, wait), (ByteSize(1 << 30), Duration::from_mins(5)));
        assert_eq!(names, ["a", "b"]);
        let effective = settings.finish().unwrap();
        assert_eq!(effective, "memory:\n  buffers: 1GiB\n  wait: 5m\nnames: [a, b]\n");
    }

    #[test]
    fn every_problem_is_reported_with_where_it_is_and_what_would_do() {
        let environment =
            Table(vec![("MILLPOND_MEMORY__WAIT", "soon"), ("MILLPOND_KEY_FILE", "/missing")]);
        let text = "memory: {buffers: lots, sise: 1}\nextra: 1";
        let settings = Settings::new("m.yml", text, &environment);
        read(&settings);
        let problems: Vec<String> =
            settings.finish().unwrap_err().problems.iter().map(ToString::to_string).collect();
        let expected = [
            "m.yml: memory.buffers = \"lots\": a number of bytes such as 64MiB, 1GB or 67108864 is expected",
            "MILLPOND_MEMORY__WAIT: memory.wait = \"soon\": a duration such as 500ms, 30s, 5m or 168h is expected",
            "MILLPOND_KEY_FILE: key_file = \"/missing\": cannot be read: entity not found",
            "m.yml: memory.sise: no such key; known here: buffers, wait",
            "m.yml: extra: no such key; known here: memory, names, key, key_file",
        ];
        for line in expected {
            assert!(problems.iter().any(|problem| problem == line), "{line}\nnot in {problems:#?}");
        }
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    }

    /// Reads `ponds`, whose items have a `name` and a `depth`.
    fn ponds(settings: &Settings<'_>) -> Option<Vec<(String, ByteSize)>> {
        let mut root = settings.root();
        let read = |mut item: Section<'_>| {
            (item.get("name", String::new()), item.get("depth", ByteSize(1)))
        };
        root.sections("ponds").map(|items| items.into_iter().map(read).collect())
    }

    fn pond(name: &str, depth: u64) -> (String, ByteSize) {
        (name.to_owned(), ByteSize(depth))
    }

    #[test]
    fn a_list_of_sections_is_read_and_shown_as_it_can_be_read_again() {
        let environment = Table(Vec::new());
        let settings = Settings::new(
            "m.yml",
            "ponds:\n  - name: a\n    depth: 2B\n  - {name: b}",
            &environment,
        );
        assert_eq!(ponds(&settings), Some(vec![pond("a", 2), pond("b", 1)]));
        let shown = settings.finish().unwrap();
        assert_eq!(
            shown,
            "ponds:\n  -\n    name: a\n    depth: 2B\n  -\n    name: b\n    depth: 1B\n"
        );
        let again = Settings::new("shown", &shown, &environment);
        assert_eq!(ponds(&again), Some(vec![pond("a", 2), pond("b", 1)]));
        assert_eq!(again.finish().unwrap(), shown);
    }

    #[test]
    fn one_section_is_a_list_of_one_and_an_empty_list_is_not_none() {
        let environment = Table(Vec::new());
        for (text, expected, shown) in [
            (
                "ponds: {name: a}",
                Some(vec![pond("a", 1)]),
                "ponds:\n  -\n    name: a\n    depth: 1B\n",
            ),
            ("ponds: []", Some(Vec::new()), "ponds: []\n"),
            ("ponds:", Some(Vec::new()), "ponds: []\n"),
            ("", None, ""),
        ] {
            let settings = Settings::new("m.yml", text, &environment);
            assert_eq!(ponds(&settings), expected, "{text}");
            assert_eq!(settings.finish().unwrap(), shown, "{text}");
        }
    }

    #[test]
    fn the_environment_sets_a_key_of_an_item_a_new_item_or_the_whole_list() {
        let file = "ponds: [{name: a, depth: 2}]";
        type Case = (&'static str, Vec<(&'static str, &'static str)>, Vec<(String, ByteSize)>);
        let cases: [Case; 5] = [
            (file, vec![("MILLPOND_PONDS__0__DEPTH", "3")], vec![pond("a", 3)]),
            (
                file,
                vec![("MILLPOND_PONDS__1__DEPTH", "4"), ("MILLPOND_PONDS__1__NAME", "b")],
                vec![pond("a", 2), pond("b", 4)],
            ),
            ("", vec![("MILLPOND_PONDS__0__NAME", "c")], vec![pond("c", 1)]),
            (
                file,
                vec![("MILLPOND_PONDS", "[{name: d}, {name: e, depth: 5}]")],
                vec![pond("d", 1), pond("e", 5)],
            ),
            (
                file,
                vec![("MILLPOND_PONDS__0__DEPTH", "6"), ("MILLPOND_PONDS", "[{name: f}]")],
                vec![pond("f", 6)],
            ),
        ];
        for (text, variables, expected) in cases {
            let environment = Table(variables);
            let settings = Settings::new("m.yml", text, &environment);
            assert_eq!(ponds(&settings), Some(expected), "{text} {:?}", environment.0);
            settings.finish().unwrap();
        }
    }

    #[test]
    fn problems_in_a_list_name_the_item_and_its_origin() {
        let cases = [
            (
                "ponds: [{sise: 1}]",
                vec![],
                "m.yml: ponds.0.sise: no such key; known here: name, depth",
            ),
            (
                "ponds: deep",
                vec![],
                "m.yml: ponds = \"deep\": a list of keys and values is expected",
            ),
            (
                "ponds: [deep]",
                vec![],
                "m.yml: ponds.0 = \"deep\": keys and values are expected here",
            ),
            (
                "ponds: [{name: a}]",
                vec![("MILLPOND_PONDS__0__DEPTH", "lots")],
                "MILLPOND_PONDS__0__DEPTH: ponds.0.depth = \"lots\": a number of bytes such as 64MiB, \
                 1GB or 67108864 is expected",
            ),
            (
                "",
                vec![("MILLPOND_PONDS", "[{dept: 1}]")],
                "MILLPOND_PONDS: ponds.0.dept: no such key; known here: name, depth",
            ),
            // A gap: 1 without 0 is no list, and 1 is no key.
            (
                "",
                vec![("MILLPOND_PONDS__1__NAME", "a")],
                "MILLPOND_PONDS__1__NAME: ponds.0.1: no such key; known here: name, depth",
            ),
        ];
        for (text, variables, expected) in cases {
            let environment = Table(variables);
            let settings = Settings::new("m.yml", text, &environment);
            ponds(&settings);
            let problems = settings.finish().unwrap_err().problems;
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(told, [expected], "{text}");
        }
    }

    #[test]
    fn secrets_come_from_files_and_stay_hidden() {
        let environment = Table(vec![("MILLPOND_KEY_FILE", "/secret")]);
        let settings = Settings::new("m.yml", "# nothing\n", &environment);
        let (.., key) = read(&settings);
        assert_eq!(key.unwrap().expose(), "s3cr3t");
        assert!(!settings.finish().unwrap().contains("s3cr3t"));
    }
}
