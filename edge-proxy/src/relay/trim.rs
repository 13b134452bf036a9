//! Which entries nobody needs any more.

use super::entry::EntryId;

/// How far one consumer group has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupProgress {
    /// The newest entry handed to the group.
    pub last_delivered: EntryId,
    /// The oldest entry that was handed out and is not acknowledged.
    pub oldest_pending: Option<EntryId>,
}

/// The first entry that must stay: everything before it is done with by all groups. `None`: trim nothing.
///
/// The pending list may have been read a moment after `last_delivered`; the smaller of the two holds either way.
pub fn trim_bound(groups: &[GroupProgress]) -> Option<EntryId> {
    let bounds = groups.iter().map(|group| {
        let after = group.last_delivered.next().unwrap_or(group.last_delivered);
        group.oldest_pending.map_or(after, |pending| pending.min(after))
    });
    bounds.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    fn group(last_delivered: u64, oldest_pending: Option<u64>) -> GroupProgress {
        GroupProgress { last_delivered: id(last_delivered), oldest_pending: oldest_pending.map(id) }
    }

    #[test]
    fn everything_delivered_may_go() {
        assert_eq!(trim_bound(&[group(9, None)]), Some(EntryId { ms: 9, seq: 1 }));
    }

    #[test]
    fn pending_entries_stay() {
        assert_eq!(trim_bound(&[group(9, Some(4))]), Some(id(4)));
        assert_eq!(trim_bound(&[group(9, Some(12))]), Some(EntryId { ms: 9, seq: 1 }));
    }

    #[test]
    fn the_slowest_group_decides() {
        assert_eq!(trim_bound(&[group(9, None), group(3, None)]), Some(EntryId { ms: 3, seq: 1 }));
        assert_eq!(trim_bound(&[group(9, None), group(0, None)]), Some(EntryId { ms: 0, seq: 1 }));
    }

    #[test]
    fn without_groups_nothing_goes() {
        assert_eq!(trim_bound(&[]), None);
    }
}
