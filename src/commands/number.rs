//! A whole number on the command line, in a range.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A parser for a number in `range`. What it refuses, it answers with the range.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "give a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_in_the_range_is_answered_with_the_range() {
        let parse = number(1..=32u8);
        assert_eq!(parse("32"), Ok(32));
        for text in ["0", "33", "256", "-1", "two", "", "1.5"] {
            assert_eq!(
                parse(text).unwrap_err(),
                "give a whole number from 1 to 32",
                "{text}"
            );
        }
    }
}
