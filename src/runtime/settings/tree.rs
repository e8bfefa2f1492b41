//! The file and the environment, merged into one tree of values.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{self, Write},
    io,
    path::Path,
    rc::Rc,
};

use serde_json::Value;

use super::{Problem, Section, SettingsError};

/// Prefix of the environment variables that override settings.
const PREFIX: &str = "MILLPOND_";

/// Where settings come from besides the file: the process environment, or a table in tests.
pub trait Environment {
    /// All variables with their values.
    fn variables(&self) -> Vec<(String, String)>;

    /// The text of a file that a setting names, such as a secret.
    ///
    /// # Errors
    /// As reading the file fails.
    fn read_file(&self, path: &Path) -> io::Result<String>;
}

/// A configuration before anyone has asked for anything in it.
pub struct Settings<'e> {
    root: Node,
    pub(super) state: Rc<RefCell<State<'e>>>,
}

/// What reading has found so far, shared by all sections.
pub(super) struct State<'e> {
    pub(super) environment: &'e dyn Environment,
    pub(super) file: String,
    pub(super) problems: Vec<Problem>,
    /// Keys and their effective values, in the order they were read.
    pub(super) effective: Vec<(String, String)>,
}

/// A value and where it came from; a branch has no origin of its own.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Branch(BTreeMap<String, Node>),
    List(Vec<Node>),
    Leaf {
        text: String,
        /// The environment variable; the file if there is none.
        variable: Option<String>,
    },
}

impl<'e> Settings<'e> {
    /// Reads `text`, the YAML of the file called `name`, and lets the environment override it: the
    /// variable for a key is `MILLPOND_` and the key's path in upper case with `__` between levels. The
    /// items of a list of sections are numbered: `MILLPOND_UPSTREAMS__0__URL`.
    ///
    /// Problems are kept for [`Settings::finish`], so that all are reported together.
    #[must_use]
    pub fn new(name: &str, text: &str, environment: &'e dyn Environment) -> Self {
        let file = name.to_owned();
        let mut problems = Vec::new();
        let mut root = parse(&file, text, &mut problems);
        for (path, variable, text) in overrides(environment) {
            root.set(&path, Node::Leaf { text, variable: Some(variable) });
        }
        let state = State { environment, file, problems, effective: Vec::new() };
        Self { root, state: Rc::new(RefCell::new(state)) }
    }

    /// The section that holds everything.
    #[must_use]
    pub fn root(&self) -> Section<'e> {
        Section::new(String::new(), self.root.clone(), Rc::clone(&self.state))
    }

    /// Ends reading: the effective configuration as YAML, or everything that was wrong.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem of the file, the environment and the values.
    pub fn finish(self) -> Result<String, SettingsError> {
        let state = self.state.borrow();
        if state.problems.is_empty() {
            Ok(as_yaml(&state.effective))
        } else {
            Err(SettingsError { problems: state.problems.clone() })
        }
    }
}

impl fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// The path, the name and the text of each variable that sets something; a whole before its parts.
fn overrides(environment: &dyn Environment) -> Vec<(Vec<String>, String, String)> {
    let path_of = |variable: &str| -> Option<Vec<String>> {
        let path = variable.strip_prefix(PREFIX)?;
        Some(path.split("__").map(str::to_lowercase).collect())
    };
    let found = environment.variables().into_iter();
    let mut found: Vec<_> =
        found.filter_map(|(name, text)| Some((path_of(&name)?, name, text))).collect();
    found.sort_by_key(|(path, ..)| path.len());
    found
}

fn parse(file: &str, text: &str, problems: &mut Vec<Problem>) -> Node {
    let empty = || Node::Branch(BTreeMap::new());
    let mut refuse = |message: String| {
        let (origin, key) = (file.to_owned(), String::new());
        problems.push(Problem { origin, key, value: None, message });
    };
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return empty();
    }
    match serde_saphyr::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Node::from_value(Value::Object(map)),
        Ok(_) => {
            refuse(
                "the file must hold keys and values, such as `api: {listen: 127.0.0.1:5000}`"
                    .into(),
            );
            empty()
        }
        Err(error) => {
            refuse(format!("not valid YAML: {}", error.without_snippet()));
            empty()
        }
    }
}

impl Node {
    fn from_value(value: Value) -> Self {
        let leaf = |text| Self::Leaf { text, variable: None };
        match value {
            Value::Object(map) => Self::Branch(
                map.into_iter().map(|(key, value)| (key, Self::from_value(value))).collect(),
            ),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from_value).collect()),
            Value::String(text) => leaf(text),
            Value::Null => leaf(String::new()),
            Value::Bool(_) | Value::Number(_) => leaf(value.to_string()),
        }
    }

    /// The values of a list. A variable holds one as `[a, b]`; a single value is a list of one.
    pub(super) fn items(&self) -> Vec<Self> {
        match self {
            Self::List(items) => items.clone(),
            Self::Leaf { text, variable: Some(_) } => {
                let items = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let Some(items) = items else { return vec![self.clone()] };
                let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(|item| self.with_text(item)).collect()
            }
            Self::Leaf { variable: None, .. } | Self::Branch(_) => vec![self.clone()],
        }
    }

    fn with_text(&self, text: &str) -> Self {
        Self::Leaf { text: text.to_owned(), variable: self.variable().map(str::to_owned) }
    }

    /// The items of a list of sections; `None` if this is none. A single section is a list of one.
    pub(super) fn sections(&self) -> Option<Vec<Self>> {
        match self {
            Self::List(items) => Some(items.clone()),
            Self::Branch(children) => {
                Some(numbered(children).unwrap_or_else(|| vec![self.clone()]))
            }
            Self::Leaf { text, .. } if text.trim().is_empty() => Some(Vec::new()),
            Self::Leaf { variable: None, .. } => None,
            Self::Leaf { variable: Some(_), .. } => self.expanded()?.sections(),
        }
    }

    /// What a variable holds that is written as a list or as keys and values.
    fn expanded(&self) -> Option<Self> {
        let Self::Leaf { text, variable: Some(variable) } = self else { return None };
        let value @ (Value::Array(_) | Value::Object(_)) =
            serde_saphyr::from_str::<Value>(text).ok()?
        else {
            return None;
        };
        let mut node = Self::from_value(value);
        node.blame(variable);
        Some(node)
    }

    /// Says of every value below that it came from `variable`.
    fn blame(&mut self, variable: &str) {
        match self {
            Self::Branch(children) => children.values_mut().for_each(|node| node.blame(variable)),
            Self::List(items) => items.iter_mut().for_each(|node| node.blame(variable)),
            Self::Leaf { variable: origin, .. } => *origin = Some(variable.to_owned()),
        }
    }

    /// Makes this something that has children: the items of a list become children `0`, `1` and so on.
    fn open(&mut self) {
        if let Some(expanded) = self.expanded() {
            *self = expanded;
        }
        let children = match self {
            Self::Branch(_) => return,
            Self::List(items) => {
                let numbers = (0_usize..).map(|number| number.to_string());
                numbers.zip(std::mem::take(items)).collect()
            }
            Self::Leaf { .. } => BTreeMap::new(),
        };
        *self = Self::Branch(children);
    }

    fn set(&mut self, path: &[String], node: Self) {
        let Some((first, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        self.open();
        if let Self::Branch(children) = self {
            let child = children.entry(first.clone()).or_insert(Self::Branch(BTreeMap::new()));
            child.set(rest, node);
        }
    }

    /// The variable that this value, or the first value below it, came from.
    pub(super) fn variable(&self) -> Option<&str> {
        match self {
            Self::Branch(children) => children.values().find_map(Self::variable),
            Self::List(items) => items.iter().find_map(Self::variable),
            Self::Leaf { variable, .. } => variable.as_deref(),
        }
    }
}

/// The children in the order of their numbers, if they are 0, 1 and so on without a gap.
fn numbered(children: &BTreeMap<String, Node>) -> Option<Vec<Node>> {
    let item = |number: usize| children.get(&number.to_string()).cloned();
    if children.is_empty() { None } else { (0..children.len()).map(item).collect() }
}

/// A value as YAML reads it back, also in a list: in quotes where it would mean something else without.
pub(super) fn scalar(text: &str) -> String {
    let read = serde_saphyr::from_str::<Vec<Value>>(&format!("[{text}]"));
    let is_plain = match read.as_deref() {
        Ok([Value::String(value)]) => value == text,
        Ok([value @ (Value::Bool(_) | Value::Number(_))]) => {
            let written = value.to_string();
            written == text
        }
        _ => false,
    };
    if is_plain { text.to_owned() } else { Value::from(text).to_string() }
}

/// Writes `a.b: value` pairs as nested YAML. A number is the place in a list.
fn as_yaml(effective: &[(String, String)]) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for (key, value) in effective {
        let parts: Vec<&str> = key.split('.').collect();
        let (last, folders) = parts.split_last().expect("a key has at least one part");
        let shared = open.iter().zip(folders).take_while(|(a, b)| a == b).count();
        open.truncate(shared);
        for folder in &folders[shared..] {
            let indent = "  ".repeat(open.len());
            let is_item = folder.bytes().all(|byte| byte.is_ascii_digit());
            let _infallible = if is_item {
                writeln!(text, "{indent}-")
            } else {
                writeln!(text, "{indent}{folder}:")
            };
            open.push(folder);
        }
        let _infallible = writeln!(text, "{}{last}: {value}", "  ".repeat(open.len()));
    }
    text
}
