use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

use super::{Layer, State};

/// The newest version of Landlock whose restrictions are known here. A host with an older one enforces those that it has.
const NEWEST: ABI = ABI::V10;

/// A layer that Landlock enforces from some version on.
struct Part {
    name: &'static str,
    prevents: &'static str,
    since: ABI,
    /// The Linux that first had that version.
    linux: &'static str,
}

const PARTS: [Part; 4] = [
    Part {
        name: "files",
        prevents: "no file can be opened, made, run or removed",
        since: ABI::V1,
        linux: "5.13",
    },
    Part {
        name: "truncation",
        prevents: "no file can be cut by its name",
        since: ABI::V3,
        linux: "6.2",
    },
    Part {
        name: "TCP",
        prevents: "no TCP connection can be made, and none accepted at a chosen port",
        since: ABI::V4,
        linux: "6.7",
    },
    Part {
        name: "processes",
        prevents: "no other process can be sent a signal, or be reached by an abstract socket",
        since: ABI::V6,
        linux: "6.12",
    },
];

/// Restricts the calling thread to the files that are open.
pub fn restrict() -> impl Iterator<Item = Layer> {
    parts(enforce(Ruleset::default(), Ok))
}

/// Restricts the calling thread to what is below `writable`, to reading what is at and below `readable`, and to the files that are
/// open.
pub fn restrict_to(writable: &Path, readable: Option<&Path>) -> impl Iterator<Item = Layer> {
    // Without this, Landlock lets no file be renamed from one directory to another.
    let renames = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer);
    let rules = |ruleset: RulesetCreated| {
        let all = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        ruleset
            .add_rules(path_beneath_rules([writable], all))?
            .add_rules(path_beneath_rules(readable, reading))
    };
    parts(renames.and_then(|ruleset| enforce(ruleset, rules)))
}

fn parts(status: Result<RestrictionStatus, RulesetError>) -> impl Iterator<Item = Layer> {
    PARTS.into_iter().map(move |part| Layer {
        name: part.name,
        state: part.state(&status),
    })
}

impl Part {
    fn state(&self, status: &Result<RestrictionStatus, RulesetError>) -> State {
        let landlock = match status {
            Ok(RestrictionStatus { landlock, .. }) => landlock,
            Err(error) => return State::Missing(error.to_string()),
        };
        State::Missing(match landlock {
            LandlockStatus::Available { effective_abi, .. } if *effective_abi >= self.since => {
                return State::Enforced(self.prevents);
            }
            LandlockStatus::Available { .. } => format!("this needs Linux {} or later", self.linux),
            LandlockStatus::NotEnabled => {
                "Landlock is turned off in this host's kernel (its parameter lsm= turns it on)".into()
            }
            LandlockStatus::NotImplemented => format!(
                "this host's kernel has no Landlock (Linux {} or later can have it), or a container's filter forbids it",
                self.linux
            ),
        })
    }
}

/// Forbids everything that this host's Landlock can forbid, but for what the rules permit.
fn enforce(
    ruleset: Ruleset,
    rules: impl FnOnce(RulesetCreated) -> Result<RulesetCreated, RulesetError>,
) -> Result<RestrictionStatus, RulesetError> {
    let ruleset = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    rules(ruleset)?.restrict_self()
}
