//! The other server: takes the sale, if this run of the move is still the one that may bring it.
//!
//! Leave to land is a key with the run's token beside the sale's own. Every step looks at it and writes in one script,
//! so that a run that was overtaken, or taken back, changes nothing any more. Landing itself uses the leave up.

use anyhow::{Context, bail, ensure};
use redis::{Cmd, Value};

use super::library::{Keys, bytes, command};
use crate::operate::deployment::{Deployment, Trouble};
use crate::store::answer::{fields, number, text};
use crate::store::nodes::Place;

/// Entries copied by one command.
const PAGE: usize = 500;

/// What stands at the other server in the place of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Nothing, but perhaps what an earlier run has left.
    Free,
    /// A key, and no leave: a sale that has landed, or somebody else's.
    Taken,
    /// A key though a move was under way: somebody has made it meanwhile.
    TakenMeanwhile,
    /// No key, but an order stream that no move has begun.
    StrangeStream,
}

const LOOK: &str = "local taken, leave = redis.call('EXISTS', KEYS[1]), redis.call('EXISTS', KEYS[2]) \
    if taken == 1 then return leave == 1 and 'meanwhile' or 'taken' end \
    if leave == 0 and redis.call('EXISTS', KEYS[4], KEYS[5]) > 0 then return 'stream' end \
    return 'free'";

const PREPARE: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.error_reply('TAKEN the key is taken') end \
    redis.call('UNLINK', KEYS[3], KEYS[4], KEYS[5]) redis.call('SET', KEYS[2], ARGV[1]) return 'OK'";

const REVOKE: &str = "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.error_reply('TAKEN the key is taken') end \
    if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5]) end return 'OK'";

const GUARD: &str = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then \
    return redis.error_reply('REVOKED another run of this move has taken over, or it was taken back') end ";

/// The payload is kept beside the sale, and loaded once under another name: what can fail fails here.
const REHEARSE: &str = "redis.call('SET', KEYS[3], ARGV[2]) \
    redis.call('RESTORE', KEYS[6], 0, ARGV[2], 'REPLACE') redis.call('UNLINK', KEYS[6]) return 'OK'";

const ADD: &str = "local at = 3 \
    while at < #ARGV do \
      local count = tonumber(ARGV[at + 1]) \
      redis.call('XADD', ARGV[2] == 'orders' and KEYS[4] or KEYS[5], ARGV[at], unpack(ARGV, at + 2, at + 1 + count)) \
      at = at + 2 + count \
    end return 'OK'";

/// Groups begin where they were; the stream goes on behind the latest id that it ever had.
const GROUPS: &str = "for at = 3, #ARGV, 2 do redis.call('XGROUP', 'CREATE', KEYS[4], ARGV[at], ARGV[at + 1], 'MKSTREAM') end \
    if #ARGV == 2 then redis.call('XGROUP', 'CREATE', KEYS[4], 'x', '0', 'MKSTREAM') \
      redis.call('XGROUP', 'DESTROY', KEYS[4], 'x') end \
    redis.call('XSETID', KEYS[4], ARGV[2]) return 'OK'";

const LAND: &str = "redis.call('RESTORE', KEYS[1], 0, redis.call('GET', KEYS[3])) \
    redis.call('UNLINK', KEYS[2], KEYS[3]) return 'OK'";

/// One shard's place at the other server.
pub struct Landing<'a> {
    target: &'a Deployment,
    place: Place<'a>,
    /// In the order in which the scripts name them.
    keys: [Vec<u8>; 6],
}

impl<'a> Landing<'a> {
    pub fn new(target: &'a Deployment, place: Place<'a>) -> Self {
        let around = Keys::of(place.key);
        let keys = [
            place.key.to_vec(),
            around.named("move"),
            around.named("move:payload"),
            around.orders.clone(),
            around.named("orders:dead"),
            around.named("move:rehearsal"),
        ];
        Self { target, place, keys }
    }

    fn script(&self, script: &str, words: &[&[u8]]) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        eval.arg(script).arg(self.keys.len());
        self.keys.iter().map(|key| &key[..]).chain(words.iter().copied()).for_each(|word| {
            eval.arg(word);
        });
        eval
    }

    async fn run(&self, script: &str, words: &[&[u8]]) -> Result<Value, Trouble> {
        self.target.ask(self.place, &self.script(script, words)).await
    }

    async fn run_guarded(&self, script: &str, words: &[&[u8]]) -> Result<Value, Trouble> {
        self.run(&[GUARD, script].concat(), words).await
    }

    /// What is there.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn look(&self) -> anyhow::Result<Ground> {
        match text(&self.run(LOOK, &[]).await?).as_deref() {
            Some("free") => Ok(Ground::Free),
            Some("taken") => Ok(Ground::Taken),
            Some("meanwhile") => Ok(Ground::TakenMeanwhile),
            Some("stream") => Ok(Ground::StrangeStream),
            other => bail!("a script answers {other:?}"),
        }
    }

    /// Gives leave to a run, in the place of any earlier one, of which it removes what it has copied.
    ///
    /// # Errors
    /// The key is taken, or the server does not answer.
    pub async fn prepare(&self, token: &str) -> Result<(), Trouble> {
        self.run(PREPARE, &[token.as_bytes()]).await.map(|_| ())
    }

    /// Takes every leave back, and removes what was copied.
    ///
    /// # Errors
    /// The sale has landed (`TAKEN`), or the server does not answer.
    pub async fn revoke(&self) -> Result<(), Trouble> {
        self.run(REVOKE, &[]).await.map(|_| ())
    }

    /// Brings the payload there, and proves that it loads.
    ///
    /// # Errors
    /// The server refuses it, or does not answer.
    pub async fn rehearse(&self, token: &str, payload: &[u8]) -> Result<(), Trouble> {
        self.run_guarded(REHEARSE, &[token.as_bytes(), payload]).await.map(|_| ())
    }

    /// The command that puts the sale into its key.
    pub fn land(&self, token: &str) -> Cmd {
        self.script(&[GUARD, LAND].concat(), &[token.as_bytes()])
    }

    /// Copies orders that somebody has still to read, with their ids, while the source goes on. Up to which, and how
    /// many that were.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn copy_ahead(&self, source: &Deployment, token: &str) -> anyhow::Result<Ahead> {
        let orders = &self.keys[3];
        match StreamState::read(source, self.place, orders).await? {
            Some(state) => self.copy(source, token, "orders", orders, state.first_needed()).await,
            None => Ok(Ahead { entries: 0, from: "-".to_owned() }),
        }
    }

    /// Copies what came since, the groups that read the stream, and letters that could not be delivered. How many entries
    /// that were.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn copy_rest(&self, source: &Deployment, token: &str, ahead: Ahead) -> anyhow::Result<usize> {
        let (orders, dead) = (&self.keys[3], &self.keys[4]);
        let mut copied = 0;
        if let Some(state) = StreamState::read(source, self.place, orders).await? {
            copied += self.copy(source, token, "orders", orders, ahead.from).await?.entries;
            let mut words: Vec<&[u8]> = vec![token.as_bytes(), &state.last_id];
            let groups: Vec<_> = state.groups.iter().map(|group| (&group.name, shown(group.done))).collect();
            groups.iter().for_each(|(name, done)| words.extend([&name[..], done.as_bytes()]));
            self.run_guarded(GROUPS, &words).await?;
        }
        copied += self.copy(source, token, "dead", dead, "-".to_owned()).await?.entries;
        Ok(copied)
    }

    async fn copy(
        &self,
        source: &Deployment,
        token: &str,
        which: &str,
        key: &[u8],
        mut from: String,
    ) -> anyhow::Result<Ahead> {
        let mut copied = 0;
        loop {
            let mut range = command("XRANGE", &[key, from.as_bytes(), b"+"]);
            let Value::Array(page) = source.ask(self.place, range.arg("COUNT").arg(PAGE)).await? else {
                bail!("XRANGE answers no list");
            };
            let (count, mut words) = (page.len(), vec![token.as_bytes().to_vec(), which.as_bytes().to_vec()]);
            for entry in page {
                let Value::Array(entry) = entry else { bail!("XRANGE answers an entry of no parts") };
                let [id, values] = <[Value; 2]>::try_from(entry).ok().context("an entry of other than two parts")?;
                let (id, values) = (bytes(id).context("an entry without an id")?, super::library::list_of(values)?);
                from = format!("({}", String::from_utf8_lossy(&id));
                words.extend([id, values.len().to_string().into_bytes()]);
                words.extend(values);
            }
            if count > 0 {
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                self.run_guarded(ADD, &words).await?;
                copied += count;
            }
            if count < PAGE {
                return Ok(Ahead { entries: copied, from });
            }
        }
    }
}

/// How far a stream was copied.
pub struct Ahead {
    pub entries: usize,
    /// Where to go on, as `XRANGE` takes it.
    from: String,
}

/// The two parts of a stream id.
type EntryId = (u64, u64);

fn shown((ms, no): EntryId) -> String {
    format!("{ms}-{no}")
}

fn entry_id(value: &Value) -> Option<EntryId> {
    let text = text(value)?;
    let (ms, no) = text.split_once('-')?;
    Some((ms.parse().ok()?, no.parse().ok()?))
}

/// Who reads a stream, and how far.
struct StreamState {
    last_id: Vec<u8>,
    groups: Vec<Group>,
}

struct Group {
    name: Vec<u8>,
    /// Up to here nothing is left to do.
    done: EntryId,
}

impl StreamState {
    /// `None`: there is no stream.
    async fn read(source: &Deployment, place: Place<'_>, key: &[u8]) -> anyhow::Result<Option<Self>> {
        let about = match source.ask(place, &command("XINFO", &[b"STREAM", key])).await {
            Ok(about) => about,
            Err(Trouble::Refused { text, .. }) if text.contains("no such key") => return Ok(None),
            Err(trouble) => return Err(trouble.into()),
        };
        let last_id = fields(about)?.into_iter().find(|(name, _)| name == "last-generated-id");
        let last_id = last_id.and_then(|(_, value)| bytes(value)).context("a stream without a last id")?;
        let Value::Array(list) = source.ask(place, &command("XINFO", &[b"GROUPS", key])).await? else {
            bail!("XINFO GROUPS answers no list");
        };
        let mut groups = Vec::new();
        for about in list {
            let (mut name, mut done, mut pending) = (None, None, 0);
            for (field, value) in fields(about)? {
                match field.as_str() {
                    "name" => name = bytes(value),
                    "last-delivered-id" => done = entry_id(&value),
                    "pending" => pending = number(&value).unwrap_or(0),
                    _ => {}
                }
            }
            let (name, mut done) = name.zip(done).context("a group without a name or a position")?;
            if pending > 0 {
                let Value::Array(summary) = source.ask(place, &command("XPENDING", &[key, &name])).await? else {
                    bail!("XPENDING answers no summary");
                };
                let oldest = summary.get(1).and_then(entry_id);
                done = oldest.map_or(done, |oldest| done.min(before(oldest)));
            }
            groups.push(Group { name, done });
        }
        Ok(Some(Self { last_id, groups }))
    }

    /// The first entry that somebody has still to read.
    fn first_needed(&self) -> String {
        self.groups.iter().map(|group| group.done).min().map_or("-".to_owned(), |done| format!("({}", shown(done)))
    }
}

/// The latest id before another.
fn before((ms, no): EntryId) -> EntryId {
    match (ms, no.checked_sub(1)) {
        (ms, Some(no)) => (ms, no),
        (0, None) => (0, 0),
        (ms, None) => (ms - 1, u64::MAX),
    }
}

/// Fails if one of the servers has no module.
///
/// # Errors
/// Which server, and what to do.
pub async fn check_module(target: &Deployment) -> anyhow::Result<()> {
    use crate::store::nodes::Dialect;
    for node in &target.topology().await?.nodes {
        let dialect = target.dialect_of(node).await;
        ensure!(
            matches!(dialect, Ok(Dialect::Module)) || matches!(dialect, Err(Trouble::Away { .. })),
            "{} has not loaded the module: load libflashsale.so there first (docs/install.md)",
            node.address
        );
        dialect?;
    }
    Ok(())
}
