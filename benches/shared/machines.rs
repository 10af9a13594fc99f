//! The nested machines on which a benchmark measures.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::thread;

use serde::de::DeserializeOwned;

use super::nested;

/// The other nested machine beside [`nested::AMD`].
const INTEL: &str = "intel";
/// Names the only machine to measure on.
const ONLY: &str = "CORACLE_NESTED";

/// Both machines, or the one that the variable names.
pub fn chosen() -> Result<Vec<&'static str>, String> {
    let all = [nested::AMD, INTEL];
    match env::var(ONLY) {
        Ok(only) if all.contains(&only.as_str()) => {
            Ok(all.into_iter().filter(|machine| *machine == only).collect())
        }
        Ok(only) => Err(format!(
            "{ONLY} is '{only}', but there are the machines {}",
            all.join(" and ")
        )),
        Err(_) => Ok(all.into()),
    }
}

/// Runs this program with `flag` and `files` in the machines, in all of them at the same time: their clocks do not depend on
/// how busy this host is. Returns what each printed, JSON.
pub fn run<T: DeserializeOwned + Send>(
    machines: &[&str],
    files: &[(PathBuf, &str)],
    flag: &str,
) -> Result<Vec<T>, Box<dyn Error>> {
    nested::call("tests/nested/prepare", machines)?;
    let results: Result<Vec<T>, String> = thread::scope(|scope| {
        let started: Vec<_> = machines
            .iter()
            .map(|machine| {
                scope.spawn(|| nested::run(machine, files, flag).map_err(|error| error.to_string()))
            })
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    Ok(results?)
}
