//! A kernel command line as Linux reads it: parameters, then `--`, then arguments for init.
//!
//! Everything that looks at a command line uses this, so that all take the same words for parameters as the kernel
//! does (lib/cmdline.c, `next_arg`; kernel/params.c, `parse_args`).

/// A parameter for the kernel. Quotation marks around it or around its value are not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    pub name: &'a str,
    pub value: Option<&'a str>,
}

impl Parameter<'_> {
    /// Whether this is the parameter of that name: to Linux `-` and `_` are the same.
    pub fn is(&self, name: &str) -> bool {
        let same = |(one, other)| one == other || matches!((one, other), (b'-' | b'_', b'-' | b'_'));
        self.name.len() == name.len() && self.name.bytes().zip(name.bytes()).all(same)
    }

    /// Whether `part` is one of the values, which are separated by commas.
    pub fn has(&self, part: &str) -> bool {
        self.value
            .is_some_and(|value| value.split(',').any(|one| one == part))
    }

    fn is_end_of_parameters(&self) -> bool {
        self.name == "--" && self.value.is_none()
    }
}

/// The kernel's parameters in `text`, in order.
pub fn parameters(text: &str) -> impl Iterator<Item = Parameter<'_>> {
    words(text)
        .map(|(_, _, parameter)| parameter)
        .take_while(|parameter| !parameter.is_end_of_parameters())
}

/// The value of the last parameter of that name, which is the one that counts.
pub fn last_value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let last = parameters(text).filter(|parameter| parameter.is(name)).last();
    last.and_then(|parameter| parameter.value)
}

/// Whether a parameter of that name is in `text`, with or without a value.
pub fn names(text: &str, name: &str) -> bool {
    parameters(text).any(|parameter| parameter.is(name))
}

/// The part of `text` with the kernel's parameters, and the part after `--` with the arguments for init.
pub fn split(text: &str) -> (&str, &str) {
    match words(text).find(|(_, _, parameter)| parameter.is_end_of_parameters()) {
        Some((start, end, _)) => (&text[..start], &text[end..]),
        None => (text, ""),
    }
}

/// Every word, with the positions in `text` of its first byte and of the byte after it.
fn words(text: &str) -> impl Iterator<Item = (usize, usize, Parameter<'_>)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next + text[next..].find(|character| !is_blank(character))?;
        let mut in_quotes = false;
        let length = text[start..].find(|character| {
            in_quotes ^= character == '"';
            is_blank(character) && !in_quotes
        });
        let end = length.map_or(text.len(), |length| start + length);
        next = end;
        Some((start, end, parameter(&text[start..end])))
    })
}

/// Whether Linux takes the character for the end of a word, outside of quotation marks (lib/ctype.c, `isspace`). Linux also
/// takes the byte 0xa0 for one: `CommandLine` refuses characters that contain it.
pub fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

fn parameter(word: &str) -> Parameter<'_> {
    let quoted = word.strip_prefix('"');
    let inner = quoted.unwrap_or(word);
    let without_end = |text| match quoted {
        Some(_) => str::strip_suffix(text, '"').unwrap_or(text),
        None => text,
    };
    // An equals sign at the very start is part of the name.
    let equals = inner
        .char_indices()
        .skip(1)
        .find(|&(_, character)| character == '=');
    let Some((equals, _)) = equals else {
        return Parameter {
            name: without_end(inner),
            value: None,
        };
    };
    let value = &inner[equals + 1..];
    let value = match value.strip_prefix('"') {
        Some(value) => value.strip_suffix('"').unwrap_or(value),
        None => without_end(value),
    };
    Parameter {
        name: &inner[..equals],
        value: Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(&str, Option<&str>)> {
        parameters(text)
            .map(|parameter| (parameter.name, parameter.value))
            .collect()
    }

    #[test]
    fn words_are_parameters_with_or_without_a_value() {
        assert_eq!(
            read("  quiet root=/dev/vda  init=a=b "),
            [("quiet", None), ("root", Some("/dev/vda")), ("init", Some("a=b"))]
        );
        assert_eq!(read(""), []);
        assert_eq!(read("a= =b"), [("a", Some("")), ("=b", None)]);
    }

    #[test]
    fn quotation_marks_hold_words_together_and_are_not_part_of_them() {
        for text in [r#"root="/dev/a b""#, r#""root=/dev/a b""#] {
            assert_eq!(read(text), [("root", Some("/dev/a b"))], "{text}");
        }
        assert_eq!(
            read(r#"dyndbg="file a.c +p; root=x" "two words" x"#),
            [
                ("dyndbg", Some("file a.c +p; root=x")),
                ("two words", None),
                ("x", None)
            ]
        );
    }

    #[test]
    fn what_is_behind_two_dashes_is_no_parameter() {
        for text in [
            "quiet -- root=/dev/vdb",
            r#"quiet "--" root=/dev/vdb"#,
            "quiet --",
        ] {
            assert_eq!(read(text), [("quiet", None)], "{text}");
        }
        assert!(!names("-- root=/dev/vdb", "root"));
        assert_eq!(read("--- root=x").len(), 2);
        assert_eq!(read(r#"a="b -- c" root=x"#).len(), 2);
    }

    #[test]
    fn a_dash_is_an_underscore_and_the_last_value_counts() {
        assert!(names("nolapic-timer", "nolapic_timer"));
        assert!(!names("nolapic-timers", "nolapic_timer"));
        assert_eq!(last_value("root=a quiet root=b -- root=c", "root"), Some("b"));
        assert_eq!(last_value("roots=a", "root"), None);
        assert!(parameters("pci=nocrs,noacpi").all(|pci| pci.has("noacpi") && !pci.has("acpi")));
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in any::<String>()) {
            let (before, after) = split(&text);
            prop_assert!(before.len() + after.len() <= text.len());
            prop_assert_eq!(parameters(before).count(), parameters(&text).count());
        }
    }
}
