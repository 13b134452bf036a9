//! What answers the commands of a sale on a server: the module, or the library of functions, which is loaded here if
//! it is not there, and replaced if it is older than the one this program carries.

use anyhow::{Context, bail};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};

use super::nodes::Dialect;
use crate::config::RedisBackend;

/// The library as it was when this program was built.
const LIBRARY: &str = include_str!("../../../lua/flashsale.lua");

/// A version of the library, and of how it lays out its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    parts: [u32; 3],
    layout: u32,
}

/// What to do about the library on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Load,
    Replace,
    Keep,
    /// Another layout of the data: sales would be lost to the other version.
    KeepForeign,
}

/// Whether the library may be loaded where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loading {
    IfNeeded,
    /// Only look: whoever just reads streams has no business with it.
    Never,
}

/// Finds out what the server speaks, and loads the library if that is needed and allowed.
///
/// # Errors
/// The server cannot be asked, or has neither and takes no library from this user.
pub async fn settle(
    connection: &mut MultiplexedConnection,
    wanted: RedisBackend,
    loading: Loading,
) -> anyhow::Result<Dialect> {
    match wanted {
        RedisBackend::Module => return Ok(Dialect::Module),
        RedisBackend::Functions => {}
        RedisBackend::Auto => match has_module(connection).await {
            Ok(true) => return Ok(Dialect::Module),
            Ok(false) => {}
            // A user who may not ask may still be one of the library.
            Err(error) if is_forbidden(&error) => {
                return Ok(as_it_is(connection).await);
            }
            Err(error) => return Err(error.into()),
        },
    }
    match loading {
        Loading::Never if wanted == RedisBackend::Auto => Ok(as_it_is(connection).await),
        Loading::Never => Ok(Dialect::Functions),
        Loading::IfNeeded => ensure_library(connection).await.map(|()| Dialect::Functions),
    }
}

async fn as_it_is(connection: &mut MultiplexedConnection) -> Dialect {
    match version_there(connection).await {
        Ok(Some(_)) => Dialect::Functions,
        Ok(None) | Err(_) => Dialect::Module,
    }
}

async fn has_module(connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
    let reply: Value = redis::cmd("COMMAND").arg("INFO").arg("FLASH.RESERVE").query_async(connection).await?;
    Ok(matches!(reply, Value::Array(commands) if commands.iter().any(|command| *command != Value::Nil)))
}

async fn ensure_library(connection: &mut MultiplexedConnection) -> anyhow::Result<()> {
    let step = look(connection).await?;
    match step {
        Step::Keep => return Ok(()),
        Step::KeepForeign => {
            log::warn!("the library on the server lays its data out in another way than this program's: it is kept");
            return Ok(());
        }
        Step::Load | Step::Replace => {}
    }
    match load(connection, step).await {
        Ok(()) => log::info!("loaded the library of functions, version {}", shown(ours()?)),
        Err(error) if step == Step::Replace => {
            log::warn!("the library on the server is older than this program's and stays: {error}");
        }
        // Somebody else has loaded one in between.
        Err(_) if matches!(version_there(connection).await, Ok(Some(_))) => {}
        Err(error) => {
            return Err(error).context("the server has neither the module nor the library, and takes no library");
        }
    }
    Ok(())
}

/// Replaces the library on a server if it is older than this program's. One that is not there is not loaded.
///
/// # Errors
/// It cannot be replaced, or has another layout of its data.
pub async fn update_library(connection: &mut MultiplexedConnection) -> anyhow::Result<()> {
    match look(connection).await? {
        step @ Step::Replace => load(connection, step).await.context(
            "the library there is older than this program's and cannot be replaced: load lua/flashsale.lua by hand",
        ),
        Step::KeepForeign => bail!("the library there lays its data out in another way than this program knows"),
        Step::Load | Step::Keep => Ok(()),
    }
}

/// What is to be done about the library on the server.
async fn look(connection: &mut MultiplexedConnection) -> anyhow::Result<Step> {
    let there = version_there(connection).await.context("the library's version cannot be asked")?;
    Ok(step(there, ours()?))
}

async fn load(connection: &mut MultiplexedConnection, step: Step) -> Result<(), RedisError> {
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD");
    if step == Step::Replace {
        load.arg("REPLACE");
    }
    load.arg(LIBRARY).exec_async(connection).await
}

/// The version on the server; `None`: there is no library.
async fn version_there(connection: &mut MultiplexedConnection) -> anyhow::Result<Option<Version>> {
    match redis::cmd("FCALL_RO").arg("flash_version").arg(0).query_async::<String>(connection).await {
        Ok(text) => Ok(Some(parse(&text).with_context(|| format!("flash_version answers {text:?}"))?)),
        Err(error) if error.detail().is_some_and(|detail| detail.starts_with("Function not found")) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn step(there: Option<Version>, ours: Version) -> Step {
    match there {
        None => Step::Load,
        Some(there) if there.layout != ours.layout => Step::KeepForeign,
        Some(there) if there.parts < ours.parts => Step::Replace,
        Some(_) => Step::Keep,
    }
}

fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// Reads `0.1.0 layout 1`.
fn parse(text: &str) -> Option<Version> {
    let (version, layout) = text.split_once(" layout ")?;
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let parts = [parts.next()??, parts.next()??, parts.next()??];
    Some(Version { parts, layout: layout.parse().ok()? })
}

fn shown(version: Version) -> String {
    let [major, minor, patch] = version.parts;
    format!("{major}.{minor}.{patch}")
}

/// The version of [`LIBRARY`], which says it in two lines of its own.
fn ours() -> anyhow::Result<Version> {
    let value = |name: &str| {
        let line = LIBRARY.lines().find_map(|line| line.strip_prefix(&format!("local {name} = ")));
        line.map(|value| value.trim_matches('\''))
    };
    let text = value("VERSION").zip(value("LAYOUT")).map(|(version, layout)| format!("{version} layout {layout}"));
    match text.as_deref().and_then(parse) {
        Some(version) => Ok(version),
        None => bail!("the library in this program does not tell its version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_tells_its_version() {
        assert_eq!(ours().unwrap().layout, 1);
        assert_eq!(parse("10.2.3 layout 4"), Some(Version { parts: [10, 2, 3], layout: 4 }));
        for nonsense in ["", "1.2 layout 1", "1.2.3", "1.2.3 layout x", "a.b.c layout 1"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn an_older_library_is_replaced_and_no_other() {
        let version = |text: &str| parse(text).unwrap();
        let ours = version("1.10.0 layout 2");
        assert_eq!(step(None, ours), Step::Load);
        assert_eq!(step(Some(version("1.9.9 layout 2")), ours), Step::Replace);
        assert_eq!(step(Some(ours), ours), Step::Keep);
        assert_eq!(step(Some(version("2.0.0 layout 2")), ours), Step::Keep);
        assert_eq!(step(Some(version("1.0.0 layout 1")), ours), Step::KeepForeign);
    }
}
