use std::fmt;
use std::str::FromStr;

/// How many characters a name may have.
const LENGTH_MAX: usize = 64;

/// A guest's name, and the name of its directory: a letter or a digit, and then letters, digits, `_`, `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a name has 1 to 64 characters: a letter or a digit, and then letters, digits, '_', '.' and '-'")]
pub struct NoName;

impl FromStr for Name {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let begins = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        match begins && text.len() <= LENGTH_MAX && text.bytes().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(NoName),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Two words, which `random` chooses.
    pub fn made_up(random: u32) -> Self {
        let random = random as usize;
        let first = FIRST[random % FIRST.len()];
        let second = SECOND[random / FIRST.len() % SECOND.len()];
        Self(format!("{first}-{second}"))
    }
}

/// Words that go with each of [`SECOND`].
const FIRST: [&str; 64] = [
    "able", "airy", "apt", "blue", "bold", "brave", "brief", "bright", "brisk", "broad", "calm", "civil",
    "clean", "clear", "clever", "cosy", "crisp", "deep", "dry", "eager", "early", "fair", "fast", "fine",
    "firm", "fond", "fresh", "gentle", "glad", "grand", "green", "handy", "hardy", "keen", "kind", "late",
    "light", "lively", "lucky", "mellow", "merry", "mild", "neat", "nimble", "plain", "proud", "quick",
    "quiet", "ready", "rosy", "sharp", "shy", "silver", "snug", "solid", "spry", "steady", "sunny", "swift",
    "tidy", "warm", "wide", "wise", "young",
];
/// What is found by or on the water.
const SECOND: [&str; 64] = [
    "anchor", "barge", "basin", "bay", "beach", "beaver", "bittern", "brook", "canal", "canoe", "carp",
    "cove", "crane", "creek", "curlew", "delta", "dipper", "duck", "eel", "egret", "ferry", "ford", "frog",
    "goose", "grebe", "gull", "harbour", "heron", "inlet", "island", "kayak", "lagoon", "lake", "lock",
    "marsh", "mill", "newt", "oar", "otter", "paddle", "perch", "pier", "pike", "pond", "pool", "raft",
    "rapids", "reed", "river", "rudder", "rush", "sail", "salmon", "shore", "snipe", "spring", "stork",
    "stream", "swan", "teal", "tern", "trout", "wharf", "willow",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_is_a_word_that_needs_no_quotes_and_leads_nowhere() {
        for text in ["a", "7", "web-1", "A.b_c-", &"x".repeat(64)] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), text);
        }
        for text in [
            "",
            ".",
            "..",
            ".new-1",
            "-x",
            "_x",
            "a/b",
            "a b",
            "a\0",
            "a\n",
            "\u{e4}",
            &"x".repeat(65),
        ] {
            assert_eq!(text.parse::<Name>(), Err(NoName), "{text:?}");
        }
    }

    #[test]
    fn names_that_are_made_up_are_names_and_differ() {
        let names: BTreeSet<_> = (0..4096).map(|random| Name::made_up(random).0).collect();
        assert_eq!(names.len(), 4096);
        assert!(names.iter().all(|name| name.parse::<Name>().is_ok()));
        Name::made_up(u32::MAX);
    }
}
