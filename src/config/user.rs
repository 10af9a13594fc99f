//! `--host-user`: the user that the process becomes.

use std::fmt;
use std::str::FromStr;

/// A user and a group by their numbers, written `UID` or `UID:GID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub user: u32,
    /// The only group; without `:GID` the one with the number of the user.
    pub group: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "'{0}' is not UID or UID:GID: names are not looked up, so write numbers, for example 65534:65534"
    )]
    NoNumbers(String),
    #[error("user 0 is root, from whom this takes the process; leave it out to stay root")]
    Root,
}

impl FromStr for User {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // For setresuid(2) the largest number means that nothing is changed.
        let number = |text: &str| text.parse().ok().filter(|&number| number != u32::MAX);
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        match (number(user), number(group)) {
            (Some(0), Some(_)) => Err(Error::Root),
            (Some(user), Some(group)) => Ok(Self { user, group }),
            _ => Err(Error::NoNumbers(text.to_owned())),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.user, self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_group_of_the_same_number_or_the_one_that_is_named() {
        let parsed = |text: &str| text.parse::<User>().map(|user| user.to_string()).ok();
        assert_eq!(parsed("1000").as_deref(), Some("1000:1000"));
        assert_eq!(parsed("1000:0").as_deref(), Some("1000:0"));
        for wrong in [
            "",
            "0",
            "0:65534",
            ":",
            "1000:",
            ":1000",
            "nobody",
            "-1",
            "4294967295",
            "1:4294967295",
            "1:2:3",
            "+",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
