//! What `coracle import --change` says of how an image is run: instructions of a Dockerfile.

use std::str::FromStr;

use serde_json::{Map, Value, json};

/// An instruction that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// A field of an image's `config` (OCI image specification, "Properties").
    field: &'static str,
    value: Value,
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = text
            .trim()
            .split_once(char::is_whitespace)
            .unwrap_or((text.trim(), ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return Err("give an instruction and what it says, for example CMD [\"/bin/sh\"]".into());
        }
        let words = || rest.split_whitespace();
        let empty = |word: &str| (word.to_owned(), json!({}));
        let (field, value) = match word.to_ascii_uppercase().as_str() {
            "CMD" => ("Cmd", command(rest)?),
            "ENTRYPOINT" => ("Entrypoint", command(rest)?),
            "ENV" => {
                let pairs = pairs(rest)?.into_iter();
                let texts = pairs.map(|(name, value)| json!(format!("{name}={value}")));
                ("Env", texts.collect())
            }
            "LABEL" => {
                let pairs = pairs(rest)?.into_iter();
                (
                    "Labels",
                    Value::Object(pairs.map(|(name, value)| (name, json!(value))).collect()),
                )
            }
            "EXPOSE" => {
                let port = |word: &str| match word.contains('/') {
                    true => empty(word),
                    false => empty(&format!("{word}/tcp")),
                };
                ("ExposedPorts", Value::Object(words().map(port).collect()))
            }
            "VOLUME" => {
                let places: Vec<String> = match serde_json::from_str(rest) {
                    Ok(places) => places,
                    Err(_) => words().map(str::to_owned).collect(),
                };
                (
                    "Volumes",
                    Value::Object(places.iter().map(|place| empty(place)).collect()),
                )
            }
            "STOPSIGNAL" => ("StopSignal", json!(rest)),
            "USER" => ("User", json!(rest)),
            "WORKDIR" => ("WorkingDir", json!(rest)),
            _ => {
                return Err(format!(
                    "'{word}' is none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR"
                ));
            }
        };
        Ok(Self { field, value })
    }
}

impl Change {
    /// Adds it to a `config`. Lists of things that have a name grow, and all else is replaced.
    pub fn apply(&self, config: &mut Map<String, Value>) {
        let old = config.entry(self.field).or_insert(Value::Null);
        match (old, &self.value) {
            (Value::Object(old), Value::Object(new)) => old.extend(new.clone()),
            (Value::Array(old), Value::Array(new)) if self.field == "Env" => {
                let name = |text: &Value| {
                    text.as_str()
                        .and_then(|text| text.split('=').next())
                        .map(str::to_owned)
                };
                old.retain(|before| new.iter().all(|after| name(after) != name(before)));
                old.extend(new.iter().cloned());
            }
            (old, new) => *old = new.clone(),
        }
    }
}

/// A list in JSON, or a line for a shell.
fn command(text: &str) -> Result<Value, String> {
    if !text.starts_with('[') {
        return Ok(json!(["/bin/sh", "-c", text]));
    }
    let words: Vec<String> =
        serde_json::from_str(text).map_err(|error| format!("{text} is no list of words in JSON: {error}"))?;
    Ok(json!(words))
}

/// `NAME=VALUE NAME="VALUE" ...`, or `NAME VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace).ok_or("give NAME=VALUE")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words(text)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("'{word}' is no NAME=VALUE")),
        })
        .collect()
}

/// Words as a shell takes them, without variables.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let escaped = characters.next().ok_or("a backslash stands at the end")?;
                word.get_or_insert_default().push(escaped);
            }
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (_, character) => word.get_or_insert_default().push(character),
        }
    }
    match quote {
        Some(open) => Err(format!("a {open} is not closed")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(changes: &[&str]) -> Value {
        let mut config = Map::new();
        for change in changes {
            change.parse::<Change>().unwrap().apply(&mut config);
        }
        Value::Object(config)
    }

    #[test]
    fn instructions_say_how_an_image_is_run() {
        let made = config(&[
            "CMD echo hello",
            "cmd [\"/bin/sh\", \"-l\"]",
            "ENV A=1 B=\"two words\"",
            "ENV A 3",
            "EXPOSE 80 53/udp",
            "EXPOSE 443",
            "LABEL a='x y' b=\\\"",
            "USER me",
            "WORKDIR /srv",
            "VOLUME [\"/data\"]",
            "VOLUME /more /most",
            "STOPSIGNAL SIGINT",
        ]);
        let expected = json!({
            "Cmd": ["/bin/sh", "-l"],
            "Env": ["B=two words", "A=3"],
            "ExposedPorts": { "80/tcp": {}, "53/udp": {}, "443/tcp": {} },
            "Labels": { "a": "x y", "b": "\"" },
            "User": "me",
            "WorkingDir": "/srv",
            "Volumes": { "/data": {}, "/more": {}, "/most": {} },
            "StopSignal": "SIGINT",
        });
        assert_eq!(made, expected);
        assert_eq!(
            config(&["ENTRYPOINT a b"]),
            json!({ "Entrypoint": ["/bin/sh", "-c", "a b"] })
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (text, word) in [
            ("", "CMD"),
            ("CMD", "CMD"),
            ("RUN ls", "'RUN'"),
            ("CMD [1]", "JSON"),
            ("ENV A", "NAME=VALUE"),
            ("ENV A=1 B", "'B'"),
            ("ENV A='1", "not closed"),
        ] {
            assert!(text.parse::<Change>().unwrap_err().contains(word), "{text}");
        }
    }
}
