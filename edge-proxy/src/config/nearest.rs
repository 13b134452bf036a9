//! Says which key was probably meant.

/// How alike two names must be, 0.0 to 1.0, before one is suggested for the other.
const ALIKE: f64 = 0.75;

/// A suggestion, if `message` complains of an unknown key and one of the known ones is much like it.
pub fn hint(message: &str) -> Option<String> {
    let (unknown, known) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let nearest = known
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (nearest.0 >= ALIKE).then(|| format!("`{unknown}` is no key here, did you mean `{}`?", nearest.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_if_there_is_one() {
        let message =
            |unknown: &str| format!("unknown field `{unknown}`, expected one of `public`, `admin`, `threads`");
        assert_eq!(hint(&message("publik")).unwrap(), "`publik` is no key here, did you mean `public`?");
        assert_eq!(hint(&message("tread")).unwrap(), "`tread` is no key here, did you mean `threads`?");
        assert!(hint(&message("xyzzy")).is_none());
        assert!(hint("invalid type: integer `1`, expected a string").is_none());
    }
}
