use serde_json::json;

use super::*;

// Public keys made for these tests with `openssl`; they guard nothing.
const ED_X: &str = "tcoAx7BD2rkK86c2GXm4_grrKjwKWnMeJooD8ZkEmtw";
const EC_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const EC_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

fn config(more: &str) -> JwksConfig {
    toml::from_str(&format!("url = \"https://id.example/keys\"\n{more}")).unwrap()
}

fn parsed(keys: Value) -> anyhow::Result<Vec<Key>> {
    let set = json!({"keys": keys}).to_string();
    parse(set.as_bytes(), &config(""))
}

fn fits(keys: &[Key], algorithm: Algorithm, kid: Option<&str>) -> bool {
    let mut header = jsonwebtoken::Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    keys.iter().any(|key| key.fits(&header))
}

fn ed(kid: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": ED_X, "kid": kid, "use": "sig"})
}

#[test]
fn keys_serve_their_own_kind_and_id() {
    let ec = json!({"kty": "EC", "crv": "P-256", "x": EC_X, "y": EC_Y, "kid": "e", "alg": "ES256"});
    let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r"});
    let keys = parsed(json!([ed("d"), ec, rsa])).unwrap();
    assert!(fits(&keys, Algorithm::EdDSA, Some("d")));
    assert!(fits(&keys, Algorithm::ES256, Some("e")));
    assert!(fits(&keys, Algorithm::RS256, Some("r")));
    assert!(!fits(&keys, Algorithm::EdDSA, Some("e")));
    assert!(!fits(&keys, Algorithm::EdDSA, None));
    assert!(!fits(&keys, Algorithm::PS256, Some("r")), "not among the algorithms of the config");
}

#[test]
fn what_is_not_for_verifying_is_passed_over() {
    let with = |member: &str, value: Value| {
        let mut key = ed("d");
        key[member] = value;
        key
    };
    let mut only_signs = with("key_ops", json!(["sign"]));
    only_signs.as_object_mut().unwrap().remove("use");
    for useless in [
        with("use", json!("enc")),
        only_signs,
        with("alg", json!("HS256")),
        with("alg", json!("RS256")),
        with("alg", json!("of the future")),
        with("crv", json!("X25519")),
        with("x", json!("!!")),
        json!({"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "d", "alg": "HS256"}),
        json!({"kty": "of the future"}),
        json!("text"),
    ] {
        assert!(parsed(json!([useless.clone()])).is_err(), "{useless}");
        let keys = parsed(json!([useless, ed("good")])).unwrap();
        assert_eq!(keys.len(), 1);
    }
}

#[test]
fn what_is_no_set_is_refused() {
    for text in ["", "{}", "[]", "{\"keys\": 1}", "{\"keys\": []}", "<html>", "{\"keys\": [1]}"] {
        assert!(parse(text.as_bytes(), &config("")).is_err(), "{text}");
    }
    let crowd: Vec<Value> = (0..100).map(|number| ed(&number.to_string())).collect();
    assert!(parsed(json!(crowd)).is_err());
}

#[test]
fn configs_that_make_no_sense_are_refused() {
    let error = |text: &str| format!("{:#}", toml::from_str::<JwksConfig>(text).unwrap().validate().unwrap_err());
    assert!(error("").contains("either file or url"));
    assert!(error("file = \"a\"\nurl = \"https://b\"").contains("either file or url"));
    assert!(error("url = \"ftp://b\"").contains("https://"));
    assert!(error("url = \"nowhere\"").contains("nowhere"));
    assert!(error("file = \"a\"\nalgorithms = [\"HS256\"]").contains("secret"));
    assert!(error("file = \"a\"\nrefresh_s = 0").contains("refresh_s"));
    assert!(toml::from_str::<JwksConfig>("file = \"a\"\nalgorithms = [\"none\"]").is_err());
}
