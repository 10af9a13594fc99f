//! Users and groups, as the guest's /etc/passwd and /etc/group name them.

use std::fs;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: Vec<u8>,
}

impl User {
    pub fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: b"/root".to_vec(),
        }
    }

    /// Finds `USER[:GROUP]`, each a name or a number. An error is a sentence.
    pub fn find(text: &[u8]) -> Result<Self, String> {
        // A guest without these files has only numbers, and root.
        let passwd = fs::read(PASSWD).unwrap_or_default();
        let group = fs::read(GROUP).unwrap_or_default();
        find_in(text, &passwd, &group)
    }
}

fn find_in(text: &[u8], passwd: &[u8], group: &[u8]) -> Result<User, String> {
    let mut parts = text.splitn(2, |byte| *byte == b':');
    let (user, wanted_group) = (parts.next().unwrap_or_default(), parts.next());
    let entry = lines(passwd).find(|fields| fields.len() >= 6 && is(fields, 2, user));
    let found = entry.and_then(|fields| Some((fields[0], number(fields[2])?, number(fields[3])?, fields[5])));
    let (name, uid, gid, home) = match (found, number(user)) {
        (Some(found), _) => found,
        (None, Some(uid)) => (&b""[..], uid, 0, &b"/"[..]),
        (None, None) if user == b"root" => return group_of(User::root(), wanted_group, group),
        (None, None) => return Err(format!("there is no user {} in the guest", shown(user))),
    };
    let is_member = |fields: &Vec<&[u8]>| {
        let mut members = fields
            .get(3)
            .into_iter()
            .flat_map(|list| list.split(|byte| *byte == b','));
        !name.is_empty() && members.any(|member| member == name)
    };
    let user = User {
        uid,
        gid,
        groups: lines(group)
            .filter(is_member)
            .filter_map(|fields| number(fields[2]))
            .collect(),
        home: if home.is_empty() {
            b"/".to_vec()
        } else {
            home.to_vec()
        },
    };
    group_of(user, wanted_group, group)
}

/// The user with the group that was asked for, and without its others then.
fn group_of(mut user: User, wanted: Option<&[u8]>, group: &[u8]) -> Result<User, String> {
    let Some(wanted) = wanted else { return Ok(user) };
    let entry = lines(group).find(|fields| fields.len() >= 3 && is(fields, 2, wanted));
    let gid = entry
        .and_then(|fields| number(fields[2]))
        .or_else(|| number(wanted));
    user.gid = gid.ok_or_else(|| format!("there is no group {} in the guest", shown(wanted)))?;
    user.groups.clear();
    Ok(user)
}

/// Whether an entry has this name, or this number in the field with this index.
fn is(fields: &[&[u8]], index: usize, text: &[u8]) -> bool {
    fields[0] == text || number(text).is_some_and(|wanted| number(fields[index]) == Some(wanted))
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|byte| *byte == b'\n')
        .map(|line| line.split(|byte| *byte == b':').collect())
}

fn number(text: &[u8]) -> Option<u32> {
    // A plus sign would be taken, too.
    let is_plain = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:100:Ann:/home/ann:/bin/sh\nbroken\n";
    const GROUP: &[u8] = b"users:x:100:\nwheel:x:10:bob,ann\nkvm:x:44:bob\n";

    fn find(text: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        let user = find_in(text.as_bytes(), PASSWD, GROUP)?;
        Ok((
            user.uid,
            user.gid,
            user.groups,
            String::from_utf8(user.home).unwrap(),
        ))
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let ann = (1000, 100, vec![10], "/home/ann".to_owned());
        assert_eq!(find("ann"), Ok(ann.clone()));
        assert_eq!(find("1000"), Ok(ann));
        assert_eq!(find("65534"), Ok((65534, 0, vec![], "/".into())));
        assert_eq!(find("nobody"), Err("there is no user nobody in the guest".into()));
    }

    #[test]
    fn a_group_that_was_asked_for_is_the_only_one() {
        assert_eq!(find("ann:kvm"), Ok((1000, 44, vec![], "/home/ann".into())));
        assert_eq!(find("7:8"), Ok((7, 8, vec![], "/".into())));
        assert_eq!(
            find("ann:none"),
            Err("there is no group none in the guest".into())
        );
    }

    #[test]
    fn root_needs_no_file() {
        assert_eq!(find_in(b"root", b"", b""), Ok(User::root()));
        assert_eq!(find_in(b"root:5", b"", b"").map(|user| user.gid), Ok(5));
    }

    proptest! {
        #[test]
        fn any_files_are_read(text: Vec<u8>, passwd in "([a-c:0-9,]{0,20}\n){0,4}", group in "([a-c:0-9,]{0,20}\n){0,4}") {
            let _ = find_in(&text, passwd.as_bytes(), group.as_bytes());
            let _ = find_in(b"a:b", passwd.as_bytes(), group.as_bytes());
        }
    }
}
