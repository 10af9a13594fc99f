//! Where a program may be, and what it gets as its environment.

use std::ffi::CString;

use coracle_agent_protocol::Program;

use super::users::User;

/// Where programs are looked up, unless the person says otherwise.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment of a program, and the files that it may be, in the order in which they are tried.
pub fn environment_and_files(program: &Program, user: &User) -> (Vec<CString>, Vec<CString>) {
    let mut entries: Vec<&[u8]> = Vec::new();
    let defaults = [[b"PATH=", PATH].concat(), [b"HOME=", &user.home[..]].concat()];
    let defaults = defaults.iter().map(Vec::as_slice);
    for entry in defaults.chain(program.environment.iter().map(Vec::as_slice)) {
        match entries.iter_mut().find(|other| name(other) == name(entry)) {
            Some(other) => *other = entry,
            None => entries.push(entry),
        }
    }
    let path = entries.iter().find_map(|entry| entry.strip_prefix(b"PATH="));
    let files = files(&program.arguments[0], path.unwrap_or_default());
    (entries.into_iter().map(text).collect(), files)
}

/// A text for the kernel. Zeros are not in what the host sends, and not in the guest's files for long.
pub fn text(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

fn name(entry: &[u8]) -> &[u8] {
    entry.split(|byte| *byte == b'=').next().unwrap_or_default()
}

fn files(program: &[u8], path: &[u8]) -> Vec<CString> {
    if program.is_empty() || program.contains(&b'/') {
        return vec![text(program)];
    }
    let in_directory = |directory: &[u8]| match directory {
        // POSIX: the directory that the program starts in.
        [] => text(program),
        _ => text(&[directory, b"/", program].concat()),
    };
    path.split(|byte| *byte == b':').map(in_directory).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: Vec<CString>) -> Vec<String> {
        list.into_iter().map(|text| text.into_string().unwrap()).collect()
    }

    fn with(argument: &str, environment: &[&str]) -> (Vec<String>, Vec<String>) {
        let program = Program {
            arguments: vec![argument.into()],
            environment: environment
                .iter()
                .map(|entry| entry.as_bytes().to_vec())
                .collect(),
            ..Program::default()
        };
        let (environment, files) = environment_and_files(&program, &User::root());
        (texts(environment), texts(files))
    }

    #[test]
    fn a_program_is_looked_up_in_its_own_path() {
        let (environment, files) = with("ls", &["PATH=/a::/b/"]);
        assert_eq!(environment, ["PATH=/a::/b/", "HOME=/root"]);
        assert_eq!(files, ["/a/ls", "ls", "/b//ls"]);
        assert_eq!(with("./ls", &[]).1, ["./ls"]);
        assert_eq!(with("", &[]).1, [""]);
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let (environment, _) = with("ls", &["A=1", "HOME=/", "AB=2", "A=3=4"]);
        assert_eq!(environment[1..], ["HOME=/", "A=3=4", "AB=2"]);
    }
}
