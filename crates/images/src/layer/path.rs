//! Paths in layers.

use std::io;

use super::refused;

/// Linux: `PATH_MAX`, without the zero at the end.
pub const PATH_MAX: usize = 4095;
/// Linux: `NAME_MAX`.
pub const NAME_MAX: usize = 255;
/// An entry with such a name removes what has the rest of the name (OCI image specification, "Whiteouts").
pub const WHITEOUT: &[u8] = b".wh.";

/// Makes a path relative to the root, with one slash between names and without `.` and `..`, as Docker does: by the text alone. Empty
/// for the root itself. What leads out of the root is refused, and what Linux could not have as a path.
pub fn clean(path: &mut Vec<u8>) -> io::Result<()> {
    if path.len() > PATH_MAX {
        return Err(refused(format!("a path has at most {PATH_MAX} bytes")));
    }
    if path.contains(&0) {
        return Err(refused("a path has no zero byte"));
    }
    // What is kept is never longer than what was read.
    let mut end = 0;
    let mut from = 0;
    while from < path.len() {
        let length = path[from..].iter().position(|byte| *byte == b'/');
        let to = length.map_or(path.len(), |length| from + length);
        match &path[from..to] {
            b"" | b"." => {}
            b".." if end == 0 => return Err(refused("it leads out of the image by '..'")),
            b".." => end = path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0),
            name if name.len() > most(name, to == path.len()) => {
                return Err(refused(format!("a name has at most {NAME_MAX} bytes")));
            }
            _ => {
                if end > 0 {
                    path[end] = b'/';
                    end += 1;
                }
                path.copy_within(from..to, end);
                end += to - from;
            }
        }
        from = to + 1;
    }
    path.truncate(end);
    Ok(())
}

/// What a whiteout hides may have a name of full length, too.
fn most(name: &[u8], is_last: bool) -> usize {
    match is_last && name.starts_with(WHITEOUT) {
        true => NAME_MAX + WHITEOUT.len(),
        false => NAME_MAX,
    }
}
