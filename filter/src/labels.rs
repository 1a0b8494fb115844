//! Names of connection labels, as `connlabel.conf` lists them.
//!
//! The names are the machine's, like those of services: whoever may read files hands the text over
//! once with [`Labels::put_in_force`], before rules are read.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Labels by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<u8, String>);

static IN_FORCE: RwLock<Option<Arc<Labels>>> = RwLock::new(None);

impl Labels {
    /// Reads lines of a number, blanks and a name; `#` begins a comment line. Of several names for a
    /// number the first counts. A line that doesn't fit is skipped, as the original does.
    pub fn parse(text: &str) -> Self {
        let mut labels = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((number, name)) = line.trim().split_once([' ', '\t']) else { continue };
            let name = name.trim();
            let plain =
                |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '\'') || c == ' ';
            match number.parse::<u8>() {
                Ok(bit) if !name.is_empty() && name.chars().all(plain) => {
                    labels.entry(bit).or_insert_with(|| name.to_owned());
                }
                _ => {}
            }
        }
        Self(labels)
    }

    /// Makes these the names that rules are read and printed with from now on.
    pub fn put_in_force(self) {
        *IN_FORCE.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(self));
    }

    /// The names in force.
    pub fn in_force() -> Arc<Self> {
        IN_FORCE.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// The name of a label.
    pub fn name(&self, bit: u8) -> Option<&str> {
        self.0.get(&bit).map(String::as_str)
    }

    /// The label of that name.
    pub fn bit(&self, name: &str) -> Option<u8> {
        self.0.iter().find(|(_, known)| *known == name).map(|(bit, _)| *bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_names() {
        let text =
            "# comment\n0\tzero\n1 one two\n6  six\n5 five\n5 cinq\n200 big\n7 a\"b\nx y\n9\n";
        let labels = Labels::parse(text);
        let got: Vec<_> = labels.0.iter().map(|(bit, name)| (*bit, name.as_str())).collect();
        assert_eq!(got, [(0, "zero"), (1, "one two"), (5, "five"), (6, "six"), (200, "big")]);
        assert_eq!(labels.bit("one two"), Some(1));
        assert_eq!(labels.bit("cinq"), None);
        assert_eq!(labels.name(6), Some("six"));
    }
}
