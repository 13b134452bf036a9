//! Secrets come from a file or from the environment, never from the config file itself,
//! so that the config can be committed, printed and sent to a colleague.

use std::path::Path;

use anyhow::{Context, bail};
use secrecy::SecretString;

/// Reads the secret that `{name}_file` or `{name}_env` points to; `None` if neither is set.
///
/// White space around the secret is cut off: files written by hand end in a newline.
///
/// # Errors
/// Both are set, the file or variable cannot be read, or the secret is empty.
pub fn read(name: &str, file: Option<&Path>, env: Option<&str>) -> anyhow::Result<Option<SecretString>> {
    let text = match (file, env) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => bail!("`{name}_file` and `{name}_env` are both set: leave one out"),
        (Some(path), None) => {
            std::fs::read_to_string(path).with_context(|| format!("`{name}_file`: cannot read {}", path.display()))?
        }
        (None, Some(variable)) => std::env::var(variable)
            .with_context(|| format!("`{name}_env`: the environment has no usable {variable}"))?,
    };
    let secret = text.trim();
    if secret.is_empty() {
        bail!("`{name}`: the secret is empty");
    }
    Ok(Some(SecretString::from(secret)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_file_is_read_and_trimmed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "  s3cret ").unwrap();
        let secret = read("key", Some(file.path()), None).unwrap().unwrap();
        assert_eq!(secret.expose_secret(), "s3cret");
    }

    #[test]
    fn nothing_set_is_no_secret() {
        assert!(read("key", None, None).unwrap().is_none());
    }

    #[test]
    fn mistakes_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = |result: anyhow::Result<Option<SecretString>>| format!("{:#}", result.unwrap_err());
        assert!(error(read("key", Some(file.path()), Some("X"))).contains("both set"));
        assert!(error(read("key", Some(file.path()), None)).contains("empty"));
        assert!(error(read("key", Some(Path::new("/does/not/exist")), None)).contains("/does/not/exist"));
        assert!(error(read("key", None, Some("FLASHSALE_NO_SUCH_VARIABLE"))).contains("FLASHSALE_NO_SUCH_VARIABLE"));
    }
}
