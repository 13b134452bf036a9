//! The servers that hold sales, asked with patience: a call ends in bounded time, whatever the servers do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use redis::{AsyncConnectionConfig, Cmd, Value};
use tokio::time::{sleep, timeout};

use crate::config::{DurabilityConfig, RedisBackend, RedisConfig};
use crate::store::StoreError;
use crate::store::answer::number;
use crate::store::backend;
use crate::store::fleet::Fleet;
use crate::store::nodes::{Dialect, Node, Place, Topology};
use crate::store::redis::unix_ms;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// One try: connecting, and again the answer.
    pub once: Duration,
    /// All tries of one call together.
    pub in_all: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Trouble {
    /// Nobody answered in time; the command may have been carried out.
    #[error("{server} does not answer: {why}")]
    Away { server: String, why: String },
    /// The server's error.
    #[error("{server} answers: {code} {text}")]
    Refused { server: String, code: String, text: String },
    /// An answer that this version does not understand.
    #[error("{server} answered something strange: {what}")]
    Strange { server: String, what: String },
    /// Neither module nor library.
    #[error(
        "{server} has neither the module nor the library: load libflashsale.so (docs/install.md), or the library with \
         `redis-cli -x FUNCTION LOAD REPLACE < lua/flashsale.lua`"
    )]
    NoFlashsale { server: String },
}

impl Trouble {
    /// The first word of the server's error.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            _ => "",
        }
    }
}

/// All servers of a deployment. Calls may run at the same time, but for those between which an order matters.
pub struct Deployment {
    fleet: Arc<Fleet>,
    dialect: Dialect,
    patience: Patience,
}

impl Deployment {
    /// Finds the servers, and whether they have the module or the library.
    ///
    /// # Errors
    /// The config is wrong, no server answers, or none knows the commands.
    pub async fn open(config: &RedisConfig, patience: Patience) -> anyhow::Result<Self> {
        let once = u64::try_from(patience.once.as_millis()).unwrap_or(u64::MAX);
        let patient = RedisConfig { timeout_ms: once, connect_timeout_ms: once, ..config.clone() };
        let fleet = Fleet::reading(&patient, &DurabilityConfig::default())?;
        let mut deployment = Self { fleet, dialect: Dialect::Module, patience };
        let longest = patience.in_all.max(patience.once * 2);
        let found = timeout(longest, deployment.fleet.topology()).await;
        let addresses: Vec<String> = config.by_group().iter().map(|group| group.addresses().join(", ")).collect();
        let addresses = addresses.join("; ");
        match found {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => anyhow::bail!("no server answers at {addresses}: {error}"),
            Err(_) => anyhow::bail!("no server answers at {addresses} within {longest:?}"),
        }
        deployment.dialect = match config.backend {
            RedisBackend::Module => Dialect::Module,
            RedisBackend::Functions => Dialect::Functions,
            RedisBackend::Auto => deployment.find_dialect().await?,
        };
        Ok(deployment)
    }

    async fn find_dialect(&self) -> Result<Dialect, Trouble> {
        let mut trouble = Trouble::Away { server: "any server".to_owned(), why: "none is known".to_owned() };
        for node in &self.topology().await?.nodes {
            match self.dialect_of(node).await {
                Ok(dialect) => return Ok(dialect),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    /// What a server calls the commands.
    ///
    /// # Errors
    /// It does not answer, or knows them by no name.
    pub async fn dialect_of(&self, node: &Node) -> Result<Dialect, Trouble> {
        let known = words(&["COMMAND", "INFO", "FLASH.INFO"]);
        if let Value::Array(about) = self.ask_node(node, &known).await?
            && !matches!(about.first(), None | Some(Value::Nil))
        {
            return Ok(Dialect::Module);
        }
        match self.ask_node(node, &words(&["FUNCTION", "LIST", "LIBRARYNAME", "flashsale"])).await {
            Ok(Value::Array(list)) if !list.is_empty() => Ok(Dialect::Functions),
            Err(trouble @ Trouble::Away { .. }) => Err(trouble),
            _ => Err(Trouble::NoFlashsale { server: node.address.clone() }),
        }
    }

    /// The servers as they were last found: of a cluster the primaries.
    ///
    /// # Errors
    /// None can be asked.
    pub async fn topology(&self) -> Result<Arc<Topology>, Trouble> {
        self.fleet.topology().await.map_err(|error| trouble_of("the deployment", error))
    }

    /// The servers, of which every group is known.
    ///
    /// # Errors
    /// None can be asked, or those of some group.
    pub async fn whole_topology(&self) -> Result<Arc<Topology>, Trouble> {
        let topology = self.topology().await?;
        let away = topology.away().next().map(str::to_owned);
        away.map_or(Ok(topology), |why| Err(Trouble::Away { server: "the deployment".to_owned(), why }))
    }

    /// Replaces the library on each server where it is older than this program's, and only there.
    ///
    /// # Errors
    /// A server does not answer in time, or keeps a library that this program does not know.
    pub async fn update_library(&self) -> anyhow::Result<()> {
        let once = Some(self.patience.once);
        let limits = AsyncConnectionConfig::new().set_connection_timeout(once).set_response_timeout(once);
        for node in &self.topology().await?.nodes {
            let update = async {
                let mut connection = node.client.get_multiplexed_async_connection_with_config(&limits).await?;
                backend::update_library(&mut connection).await
            };
            // Three answers at most: who it is, what it has, and that it has taken ours.
            let updated = timeout(self.patience.once * 3, update).await;
            updated.map_err(anyhow::Error::from).flatten().with_context(|| node.address.clone())?;
        }
        Ok(())
    }

    /// Whether module or library answer.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// `FLASH.NAME key`, or what the library calls it.
    pub fn flash(&self, name: &str, key: &[u8]) -> Cmd {
        self.dialect.command(name, key)
    }

    /// The address of the server that has a key, as far as is known.
    pub async fn server_of(&self, place: Place<'_>) -> Option<String> {
        let topology = self.topology().await.ok()?;
        topology.node_of(place).map(|node| node.address.clone())
    }

    /// Sends one command to the server that has the key; follows the key, and tries again for a while. So the command
    /// must be one that may come twice.
    ///
    /// # Errors
    /// The server's error, or no answer in time.
    pub async fn ask(&self, place: Place<'_>, command: &Cmd) -> Result<Value, Trouble> {
        let reply = self.ask_all(place, std::slice::from_ref(command)).await?.pop();
        match reply {
            Some(Value::ServerError(error)) => Err(refused(&self.server_of(place).await.unwrap_or_default(), &error)),
            Some(reply) => Ok(reply),
            None => Err(Trouble::Strange { server: "the server".to_owned(), what: "nothing".to_owned() }),
        }
    }

    /// As [`Deployment::ask`] for several commands in one write. Errors of single commands are among the replies.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn ask_all(&self, place: Place<'_>, commands: &[Cmd]) -> Result<Vec<Value>, Trouble> {
        let began = Instant::now();
        loop {
            // The client has time limits of its own; this one holds whatever it does.
            let sent = timeout(self.patience.once * 3, self.fleet.send(place, commands)).await;
            let server = self.server_of(place).await.unwrap_or_else(|| "the deployment".to_owned());
            let trouble = match sent {
                Ok(Ok(replies)) => match hindrance(&server, &replies) {
                    None => return Ok(replies),
                    Some(trouble) => trouble,
                },
                Ok(Err(error)) => trouble_of(&server, error),
                Err(_) => Trouble::Away { server, why: format!("no word within {:?}", self.patience.once * 3) },
            };
            if began.elapsed() + PAUSE >= self.patience.in_all {
                return Err(trouble);
            }
            sleep(PAUSE).await;
        }
    }

    /// Sends one command to one server, once.
    ///
    /// # Errors
    /// The server's error, or no answer in time.
    pub async fn ask_node(&self, node: &Node, command: &Cmd) -> Result<Value, Trouble> {
        match self.ask_node_all(node, std::slice::from_ref(command)).await?.pop() {
            Some(Value::ServerError(error)) => Err(refused(&node.address, &error)),
            Some(reply) => Ok(reply),
            None => Err(Trouble::Strange { server: node.address.clone(), what: "nothing".to_owned() }),
        }
    }

    /// How far a server's clock is from ours, in ms: the sample with the shortest way there and back counts.
    ///
    /// # Errors
    /// The server's error, no answer in time, or one that is no time.
    pub async fn skew_ms(&self, node: &Node) -> Result<i64, Trouble> {
        let mut best: Option<(Duration, i64)> = None;
        for _ in 0..5 {
            let (sent_ms, began) = (unix_ms(), Instant::now());
            let reply = self.ask_node(node, &words(&["TIME"])).await?;
            let took = began.elapsed();
            let here_ms = sent_ms.midpoint(unix_ms()) as i64;
            let Value::Array(parts) = reply else { continue };
            let part = |at: usize| parts.get(at).and_then(number);
            let Some((seconds, micros)) = part(0).zip(part(1)) else { continue };
            if best.is_none_or(|(shortest, _)| took < shortest) {
                best = Some((took, (seconds * 1_000 + micros / 1_000) as i64 - here_ms));
            }
        }
        best.map(|(_, skew)| skew)
            .ok_or_else(|| Trouble::Strange { server: node.address.clone(), what: "no time to TIME".to_owned() })
    }

    /// Sends several commands to one server, once. Errors of single commands are among the replies.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn ask_node_all(&self, node: &Node, commands: &[Cmd]) -> Result<Vec<Value>, Trouble> {
        match timeout(self.patience.once * 3, self.fleet.send_to(node, commands, false)).await {
            Ok(result) => result.map_err(|error| trouble_of(&node.address, error)),
            Err(_) => {
                let why = format!("no word within {:?}", self.patience.once * 3);
                Err(Trouble::Away { server: node.address.clone(), why })
            }
        }
    }
}

/// A command of words alone.
pub fn words(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

/// Why replies are no answers yet: it passes.
fn hindrance(server: &str, replies: &[Value]) -> Option<Trouble> {
    let passes = ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY"];
    replies.iter().find_map(|reply| match reply {
        Value::ServerError(error) if passes.contains(&error.code()) => Some(refused(server, error)),
        _ => None,
    })
}

fn refused(server: &str, error: &redis::ServerError) -> Trouble {
    Trouble::Refused {
        server: server.to_owned(),
        code: error.code().to_owned(),
        text: error.details().unwrap_or_default().to_owned(),
    }
}

fn trouble_of(server: &str, error: StoreError) -> Trouble {
    let server = server.to_owned();
    match error {
        StoreError::Down(why) | StoreError::Unknown(why) => Trouble::Away { server, why },
        other => Trouble::Strange { server, what: other.to_string() },
    }
}

/// Reads a reply that must be no error.
///
/// # Errors
/// It is one.
pub fn checked(server: &str, reply: Value) -> Result<Value, Trouble> {
    match reply {
        Value::ServerError(error) => Err(refused(server, &error)),
        reply => Ok(reply),
    }
}
