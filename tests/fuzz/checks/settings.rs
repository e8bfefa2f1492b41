//! The configuration file. Any text gives a configuration or says what is wrong; and what is shown as
//! being in force is itself a configuration that means the same.

use std::{io, path::Path};

use millpond::{config::Config, runtime::Environment};

/// No variables, and no files to take secrets from.
struct Nothing;

impl Environment for Nothing {
    fn variables(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn read_file(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

pub(crate) fn check(text: &str) {
    match Config::parse("millpond.yml", text, &Nothing) {
        Ok(loaded) => {
            let again = Config::parse("effective.yml", &loaded.effective, &Nothing);
            let again = again.map(|again| again.effective);
            assert_eq!(again.as_ref(), Ok(&loaded.effective), "from {text:?}");
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            assert!(error.to_string().contains("millpond.yml"));
        }
    }
}
