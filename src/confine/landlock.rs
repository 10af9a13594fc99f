use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetError, Scope,
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
    let status = enforce();
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

/// Forbids everything that this host's Landlock can forbid, and permits nothing.
fn enforce() -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()
}
