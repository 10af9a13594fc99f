//! The known name that a misspelt one most likely means.

/// How alike two names must be, from 0 (nothing in common) to 1 (the same). Command line flags use the same measure and
/// limit.
const ALIKE: f64 = 0.7;

/// The most similar of `names`, if one is similar enough to be meant. Upper case and underscores count as no difference.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('_', "-");
    let scored = names.into_iter().map(|name| (strsim::jaro(&word, name), name));
    let (score, name) = scored.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (score > ALIKE).then_some(name)
}

/// The end of a message about an unknown word: a question that names the nearest known one, if there is one.
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(word, names) {
        Some(name) => format!(": did you mean '{name}'?"),
        None => String::new(),
    }
}
