use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::super::visit::tests::{request, visit};
use bytes::Bytes;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::*;

const SECRET: &str = "a secret that is long enough";

// Made for these tests with `openssl genpkey`; they guard nothing.
const ED_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIBi0UrZgsd7L/JcrtTHRWw/enCCYpcnsw6P4wYBpDRp4\n-----END PRIVATE KEY-----\n";
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAtcoAx7BD2rkK86c2GXm4/grrKjwKWnMeJooD8ZkEmtw=\n-----END PUBLIC KEY-----\n";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn file(text: &str) -> tempfile::TempPath {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    file.into_temp_path()
}

fn hs256() -> KeyConfig {
    KeyConfig {
        algorithm: Algorithm::HS256,
        kid: None,
        secret_file: Some(file(SECRET).keep().unwrap()),
        secret_env: None,
        public_key_file: None,
        public_key_env: None,
    }
}

fn eddsa() -> KeyConfig {
    KeyConfig {
        algorithm: Algorithm::EdDSA,
        secret_file: None,
        public_key_file: Some(file(ED_PUBLIC).keep().unwrap()),
        ..hs256()
    }
}

fn tokens(keys: Vec<KeyConfig>, change: impl FnOnce(&mut TokensConfig)) -> Tokens {
    let mut config = TokensConfig { keys, ..TokensConfig::default() };
    change(&mut config);
    config.validate().unwrap();
    Tokens::new(&config, Some(SecretString::from("the server's own key"))).unwrap()
}

fn signed(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    encode(header, claims, key).unwrap()
}

fn hs(claims: &Value) -> String {
    signed(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

fn good() -> Value {
    json!({"sub": "anna", "exp": now() + 600})
}

fn buyer(tokens: &Tokens, token: &str) -> Result<String, &'static str> {
    tokens.verifier.verify_now(token).map(|buyer| String::from_utf8(buyer.to_vec()).unwrap())
}

#[test]
fn good_tokens_of_both_kinds_are_taken() {
    let tokens = tokens(vec![hs256(), eddsa()], |_| {});
    assert_eq!(buyer(&tokens, &hs(&good())).unwrap(), "anna");
    let key = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap();
    let token = signed(&Header::new(Algorithm::EdDSA), &good(), &key);
    assert_eq!(buyer(&tokens, &token).unwrap(), "anna");
}

#[test]
fn none_has_no_key() {
    let tokens = tokens(vec![hs256()], |_| {});
    let claims = URL_SAFE_NO_PAD.encode(good().to_string());
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
        for signature in ["", "x"] {
            buyer(&tokens, &format!("{header}.{claims}.{signature}")).unwrap_err();
        }
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    // The classic confusion: sign by HS256 with the text of the public key as the secret.
    let only_ed = tokens(vec![eddsa()], |_| {});
    let forged =
        signed(&Header::new(Algorithm::HS256), &good(), &EncodingKey::from_secret(ED_PUBLIC.trim().as_bytes()));
    buyer(&only_ed, &forged).unwrap_err();
    let both = tokens(vec![hs256(), eddsa()], |_| {});
    buyer(&both, &forged).unwrap_err();
}

#[test]
fn another_hmac_than_configured_is_refused() {
    let tokens = tokens(vec![hs256()], |_| {});
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = signed(&Header::new(algorithm), &good(), &EncodingKey::from_secret(SECRET.as_bytes()));
        buyer(&tokens, &token).unwrap_err();
    }
}

#[test]
fn times_are_checked_with_leeway() {
    let tokens = tokens(vec![hs256()], |config| config.leeway_s = 30);
    let with = |claims: Value| buyer(&tokens, &hs(&claims));
    with(json!({"sub": "a", "exp": now() - 10})).unwrap();
    assert!(with(json!({"sub": "a", "exp": now() - 60})).unwrap_err().contains("expired"));
    with(json!({"sub": "a", "exp": now() + 600, "nbf": now() + 10})).unwrap();
    assert!(with(json!({"sub": "a", "exp": now() + 600, "nbf": now() + 60})).unwrap_err().contains("yet"));
    with(json!({"sub": "a"})).unwrap_err();
    with(json!({"sub": "a", "exp": "tomorrow"})).unwrap_err();
}

#[test]
fn audience_and_issuer_are_checked_even_if_they_are_missing() {
    let tokens = tokens(vec![hs256()], |config| {
        config.audience = vec!["shop".to_owned()];
        config.issuer = vec!["https://id".to_owned()];
    });
    let with = |aud: Value, iss: Value| {
        let mut claims = good();
        claims["aud"] = aud;
        claims["iss"] = iss;
        buyer(&tokens, &hs(&claims))
    };
    with(json!("shop"), json!("https://id")).unwrap();
    with(json!(["other", "shop"]), json!("https://id")).unwrap();
    assert!(with(json!("other"), json!("https://id")).unwrap_err().contains("audience"));
    assert!(with(json!("shop"), json!("https://evil")).unwrap_err().contains("issuer"));
    buyer(&tokens, &hs(&good())).unwrap_err();
}

/// The library judges claims too, but only together with a signature, and reads each header three times for that.
#[test]
fn claims_are_judged_as_the_library_judges_them() {
    use jsonwebtoken::{DecodingKey, Validation, decode};
    let times = |now: u64| {
        [
            Value::Null,
            json!(0),
            json!(-1),
            json!("1"),
            json!([now]),
            json!(now - 1000),
            json!(now + 1000),
            json!(now as f64 + 1000.5),
            json!(now as f64 - 1000.5),
            json!(1e300),
            json!(u64::MAX),
        ]
    };
    let names = [
        Value::Null,
        json!("shop"),
        json!("other"),
        json!(""),
        json!([]),
        json!(["other", "shop"]),
        json!(["other"]),
        json!(["shop", 5]),
        json!(5),
        json!({"shop": "shop"}),
    ];
    let key = DecodingKey::from_secret(SECRET.as_bytes());
    let (mut accepted, mut refused) = (0, 0);
    let mut compare = |wanted: &[String], claims: &Value| {
        let tokens = tokens(vec![hs256()], |config| {
            config.audience = wanted.to_vec();
            config.issuer = wanted.to_vec();
        });
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 30;
        validation.validate_nbf = true;
        validation.validate_aud = !wanted.is_empty();
        if wanted.is_empty() {
            validation.set_required_spec_claims(&["exp"]);
        } else {
            validation.set_audience(wanted);
            validation.set_issuer(wanted);
            validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        }
        let token = hs(claims);
        let (ours, theirs) = (buyer(&tokens, &token), decode::<Value>(&token, &key, &validation));
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{claims}: {ours:?}, {theirs:?}");
        *if ours.is_ok() { &mut accepted } else { &mut refused } += 1;
    };
    for exp in times(now()) {
        for nbf in times(now()) {
            compare(&[], &json!({"sub": "anna", "exp": exp, "nbf": nbf, "aud": "other", "iss": 5}));
        }
    }
    for aud in &names {
        for iss in &names {
            compare(&["shop".to_owned()], &json!({"sub": "anna", "exp": now() + 600, "aud": aud, "iss": iss}));
        }
    }
    assert!(accepted >= 10 && refused >= 100, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_claim_stands_once_and_no_header_demands_what_nobody_knows() {
    let tokens = tokens(vec![hs256()], |_| {});
    let encoding = EncodingKey::from_secret(SECRET.as_bytes());
    let raw = |claims: &str| {
        let message = [json!({"alg": "HS256"}).to_string().as_str(), claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = message.join(".");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &encoding, Algorithm::HS256).unwrap();
        buyer(&tokens, &format!("{message}.{signature}"))
    };
    let exp = now() + 600;
    assert_eq!(raw(&format!(r#"{{"s\u0075b":"anna","exp":{exp}}}"#)).unwrap(), "anna");
    for bad in [
        format!(r#"{{"sub":"anna","sub":"eve","exp":{exp}}}"#),
        format!(r#"{{"sub":"anna","exp":1,"exp":{exp}}}"#),
        format!(r#"{{"sub":"anna","exp":{exp}}} "x""#),
        format!(r#"["anna",{exp}]"#),
        "5".to_owned(),
    ] {
        assert!(raw(&bad).unwrap_err().contains("valid JWT"), "{bad}");
    }
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".to_owned()]);
    buyer(&tokens, &signed(&header, &good(), &encoding)).unwrap_err();
    buyer(&tokens, &hs(&good())).unwrap();
}

#[test]
fn an_audience_nobody_asked_for_does_no_harm() {
    let tokens = tokens(vec![hs256()], |_| {});
    let mut claims = good();
    claims["aud"] = json!("somebody");
    buyer(&tokens, &hs(&claims)).unwrap();
}

#[test]
fn the_buyer_claim_is_a_short_text_or_a_number() {
    let tokens = tokens(vec![hs256()], |config| config.buyer_claim = "customer".to_owned());
    let with = |customer: Value| buyer(&tokens, &hs(&json!({"customer": customer, "exp": now() + 600})));
    assert_eq!(with(json!("anna")).unwrap(), "anna");
    assert_eq!(with(json!(42)).unwrap(), "42");
    for bad in [json!(null), json!(""), json!(-1), json!(1.5), json!(["a"]), json!({}), json!("x".repeat(129))] {
        with(bad).unwrap_err();
    }
    buyer(&tokens, &hs(&good())).unwrap_err();
}

#[test]
fn broken_tokens_are_refused() {
    let tokens = tokens(vec![hs256()], |_| {});
    let token = hs(&good());
    let parts: Vec<&str> = token.split('.').collect();
    let (header, claims, signature) = (parts[0], parts[1], parts[2]);
    let other = URL_SAFE_NO_PAD.encode(json!({"sub": "eve", "exp": now() + 600}).to_string());
    for broken in [
        String::new(),
        "x".to_owned(),
        "..".to_owned(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!("{header}.{other}.{signature}"),
        format!("{header}.{claims}.{signature}x"),
        format!("{header}.{claims}.{signature}.{signature}"),
        format!("{header}.{claims}.{}", &signature[1..]),
        format!("!{header}.{claims}.{signature}"),
        "a".repeat(9000),
    ] {
        buyer(&tokens, &broken).unwrap_err();
    }
    let other_secret = EncodingKey::from_secret(b"another secret, long enough");
    buyer(&tokens, &signed(&Header::new(Algorithm::HS256), &good(), &other_secret)).unwrap_err();
}

#[test]
fn a_key_with_an_id_serves_that_id_only() {
    let mut key = hs256();
    key.kid = Some("k1".to_owned());
    let tokens = tokens(vec![key], |_| {});
    let with = |kid: Option<&str>| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = kid.map(str::to_owned);
        buyer(&tokens, &signed(&header, &good(), &EncodingKey::from_secret(SECRET.as_bytes())))
    };
    with(Some("k1")).unwrap();
    with(Some("k2")).unwrap_err();
    with(None).unwrap_err();
}

async fn caller(tokens: &Tokens, headers: &[(&'static str, &str)]) -> Result<Caller, Refusal> {
    let request = request("POST", "/flash/s/holds?sku=S", headers);
    let mut visit = visit(&request);
    tokens.check(&mut visit).await?;
    Ok(visit.caller)
}

#[tokio::test]
async fn tokens_come_by_header_or_cookie() {
    let anna = Caller::Buyer(Bytes::from_static(b"anna"));
    let token = hs(&good());
    let with_cookie = tokens(vec![hs256()], |config| config.cookie = "session".to_owned());
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=b; session={token}; c=d");
    assert_eq!(caller(&with_cookie, &[("authorization", &bearer)]).await.unwrap(), anna);
    assert_eq!(caller(&with_cookie, &[("authorization", &format!("bearer {token}"))]).await.unwrap(), anna);
    assert_eq!(caller(&with_cookie, &[("cookie", &cookie)]).await.unwrap(), anna);

    let refusal = caller(&with_cookie, &[]).await.unwrap_err();
    assert_eq!(refusal.status, 401);
    assert_eq!(refusal.headers, [(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))]);
    for headers in [
        vec![("authorization", token.as_str())],
        vec![("authorization", "Basic YTpi")],
        vec![("authorization", "Bearer ")],
        vec![("authorization", bearer.as_str()), ("authorization", "Bearer x")],
    ] {
        assert_eq!(caller(&with_cookie, &headers).await.unwrap_err().status, 401, "{headers:?}");
    }

    let own_header = tokens(vec![hs256()], |config| config.header = "x-shop-token".to_owned());
    assert_eq!(caller(&own_header, &[("x-shop-token", &token)]).await.unwrap(), anna);
    assert_eq!(caller(&own_header, &[("cookie", &cookie)]).await.unwrap_err().status, 401);
}

#[tokio::test]
async fn the_server_key_is_the_shop() {
    let tokens = tokens(vec![hs256()], |_| {});
    let header = "Bearer the server's own key";
    assert_eq!(caller(&tokens, &[("authorization", header)]).await.unwrap(), Caller::Shop);
    assert_eq!(caller(&tokens, &[("authorization", "Bearer the server's own kex")]).await.unwrap_err().status, 401);
    let nobody = Tokens::new(&TokensConfig::default(), None).unwrap();
    assert_eq!(caller(&nobody, &[("authorization", "Bearer ")]).await.unwrap_err().status, 401);
}

#[tokio::test]
async fn the_window_is_open_to_everybody() {
    let tokens = tokens(vec![hs256()], |_| {});
    let request = request("GET", "/flash/s", &[]);
    tokens.check(&mut visit(&request)).await.unwrap();
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    let error = |key: KeyConfig| {
        let config = TokensConfig { keys: vec![key], ..TokensConfig::default() };
        format!("{:#}", config.validate().unwrap_err())
    };
    assert!(error(KeyConfig { algorithm: Algorithm::EdDSA, ..hs256() }).contains("public_key_file"));
    assert!(error(KeyConfig { algorithm: Algorithm::HS256, ..eddsa() }).contains("secret_file"));
    assert!(error(KeyConfig { algorithm: Algorithm::RS256, ..eddsa() }).contains("PEM"));
    let short = KeyConfig { secret_file: Some(file("short").keep().unwrap()), ..hs256() };
    assert!(error(short).contains("guessed"));
    assert!(toml::from_str::<KeyConfig>("algorithm = \"none\"").is_err());
}

#[tokio::test]
async fn those_who_pay_find_a_place_when_arrivals_do_not() {
    let crowded = tokens(vec![eddsa()], |config| (config.verifying_max, config.waiting_max) = (1, 2));
    let key = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap();
    let token = signed(&Header::new(Algorithm::EdDSA), &good(), &key);
    let verify = |arrives: bool| crowded.verifier.buyer(&token, arrives);
    let busy = crowded.verifier.occupy().await;
    let mut first = Box::pin(verify(true));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert_eq!(verify(true).await, Err(Rejected::Busy));
    let mut paying = Box::pin(verify(false));
    assert!(futures_util::poll!(&mut paying).is_pending());
    assert_eq!(verify(false).await, Err(Rejected::Busy));
    // One who goes away leaves its place.
    drop(first);
    let mut next = Box::pin(verify(false));
    assert!(futures_util::poll!(&mut next).is_pending());
    drop(busy);
    assert_eq!(paying.await, Ok(Bytes::from_static(b"anna")));
    assert_eq!(next.await, Ok(Bytes::from_static(b"anna")));
}
