//! Private keys from files, and signatures with them.
//!
//! Read are the OpenSSH format (`openssh-key-v1`, RFC 4253 encodings inside) with Ed25519, RSA and ECDSA keys, and PEM of PKCS #1
//! and PKCS #8. Keys behind a passphrase are not: that is what an agent is for.

use std::{fs::File, io::Read as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ring::{
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};

use super::wire::{Reader, put_mpint, put_string};

/// No key file is larger, in bytes.
const MAX_FILE: u64 = 100 << 10;
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// Flags of a signature request: which hash for RSA.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// A key that signs.
pub(super) struct PrivateKey {
    public: Vec<u8>,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Ecdsa(EcdsaKeyPair, &'static str),
}

impl PrivateKey {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let file = File::open(path).map_err(|error| error.to_string())?;
        file.take(MAX_FILE).read_to_string(&mut text).map_err(|_| "this is no private key".to_owned())?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (label, data) = pem(text).ok_or("this is no private key in PEM")?;
        match label.as_str() {
            "OPENSSH PRIVATE KEY" => openssh(&data),
            "RSA PRIVATE KEY" => {
                RsaKeyPair::from_der(&data).map(rsa_key).map_err(|error| format!("RSA key: {error}"))
            }
            "PRIVATE KEY" => pkcs8(&data),
            "ENCRYPTED PRIVATE KEY" => Err(encrypted()),
            other => Err(format!("a {other} is not supported; convert it with `ssh-keygen -p -f FILE`")),
        }
    }

    /// The public key as ssh encodes it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// A signature as ssh encodes it; `None` when the request cannot be met.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (name, bytes) = match &self.signer {
            Signer::Ed25519(key) => ("ssh-ed25519", key.sign(data).as_ref().to_vec()),
            Signer::Rsa(key) => {
                let (name, padding): (_, &'static dyn signature::RsaEncoding) = match flags {
                    f if f & RSA_SHA2_512 != 0 => ("rsa-sha2-512", &signature::RSA_PKCS1_SHA512),
                    f if f & RSA_SHA2_256 != 0 => ("rsa-sha2-256", &signature::RSA_PKCS1_SHA256),
                    // SHA-1, which nobody should take any more.
                    _ => return None,
                };
                let mut bytes = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, data, &mut bytes).ok()?;
                (name, bytes)
            }
            Signer::Ecdsa(key, name) => {
                let fixed = key.sign(&random, data).ok()?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut bytes = Vec::new();
                put_mpint(&mut bytes, r);
                put_mpint(&mut bytes, s);
                (*name, bytes)
            }
        };
        let mut out = Vec::new();
        put_string(&mut out, name.as_bytes());
        put_string(&mut out, &bytes);
        Some(out)
    }
}

fn encrypted() -> String {
    "the key has a passphrase; add it to an ssh agent and give the agent's socket".into()
}

/// Label and content of the first PEM block.
fn pem(text: &str) -> Option<(String, Vec<u8>)> {
    let rest = text.split_once("-----BEGIN ")?.1;
    let (label, rest) = rest.split_once("-----")?;
    let body = rest.split_once("-----END ")?.0;
    // Headers of an encrypted block hold colons; then it is not base64, and no key that is read here.
    let body: String = body.split_whitespace().collect();
    Some((label.to_owned(), BASE64.decode(body).ok()?))
}

fn ed25519_key(pair: Ed25519KeyPair) -> PrivateKey {
    let mut public = Vec::new();
    put_string(&mut public, b"ssh-ed25519");
    put_string(&mut public, pair.public_key().as_ref());
    PrivateKey { public, signer: Signer::Ed25519(pair) }
}

fn rsa_key(pair: RsaKeyPair) -> PrivateKey {
    let components: rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
    let mut public = Vec::new();
    put_string(&mut public, b"ssh-rsa");
    put_mpint(&mut public, &components.e);
    put_mpint(&mut public, &components.n);
    PrivateKey { public, signer: Signer::Rsa(Box::new(pair)) }
}

fn ecdsa_key(pair: EcdsaKeyPair, name: &'static str) -> PrivateKey {
    let mut public = Vec::new();
    put_string(&mut public, name.as_bytes());
    put_string(&mut public, name.trim_start_matches("ecdsa-sha2-").as_bytes());
    put_string(&mut public, pair.public_key().as_ref());
    PrivateKey { public, signer: Signer::Ecdsa(pair, name) }
}

/// The curves, as ssh and the library call them.
fn curve(name: &[u8]) -> Option<(&'static str, &'static signature::EcdsaSigningAlgorithm)> {
    match name {
        b"nistp256" => Some(("ecdsa-sha2-nistp256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING)),
        b"nistp384" => Some(("ecdsa-sha2-nistp384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING)),
        _ => None,
    }
}

fn pkcs8(data: &[u8]) -> Result<PrivateKey, String> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(data) {
        return Ok(ed25519_key(pair));
    }
    if let Ok(pair) = RsaKeyPair::from_pkcs8(data) {
        return Ok(rsa_key(pair));
    }
    for name in [&b"nistp256"[..], b"nistp384"] {
        if let Some((name, algorithm)) = curve(name)
            && let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, data, &SystemRandom::new())
        {
            return Ok(ecdsa_key(pair, name));
        }
    }
    Err("the kind of this PKCS #8 key is not supported".into())
}

fn openssh(data: &[u8]) -> Result<PrivateKey, String> {
    let short = || "the key file is cut off".to_owned();
    let mut reader = Reader(data.strip_prefix(MAGIC).ok_or_else(short)?);
    let cipher = reader.string().ok_or_else(short)?;
    if cipher != b"none" {
        return Err(encrypted());
    }
    let (_kdf, _kdf_options) = (reader.string().ok_or_else(short)?, reader.string().ok_or_else(short)?);
    if reader.number() != Some(1) {
        return Err("a key file with other than one key is not supported".into());
    }
    let _public = reader.string().ok_or_else(short)?;
    let mut reader = Reader(reader.string().ok_or_else(short)?);
    if reader.number() != reader.number() {
        return Err("the key file is damaged".into());
    }
    match reader.string().ok_or_else(short)? {
        b"ssh-ed25519" => {
            let public = reader.string().ok_or_else(short)?;
            let seed = reader.string().and_then(|both| both.get(..32)).ok_or_else(short)?;
            Ed25519KeyPair::from_seed_and_public_key(seed, public).map(ed25519_key).map_err(|e| e.to_string())
        }
        b"ssh-rsa" => openssh_rsa(&mut reader),
        name if name.starts_with(b"ecdsa-sha2-") => {
            let (name, algorithm) =
                curve(reader.string().ok_or_else(short)?).ok_or("this curve is not supported")?;
            let public = reader.string().ok_or_else(short)?;
            let secret = reader.mpint().ok_or_else(short)?;
            let size = (public.len() - public.len().min(1)) / 2;
            let padded = [vec![0; size.saturating_sub(secret.len())], secret.to_vec()].concat();
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, &padded, public, &SystemRandom::new())
                .map(|pair| ecdsa_key(pair, name))
                .map_err(|error| error.to_string())
        }
        other => Err(format!("keys of kind {} are not supported", String::from_utf8_lossy(other))),
    }
}

fn openssh_rsa(reader: &mut Reader<'_>) -> Result<PrivateKey, String> {
    let mut next = || reader.mpint().ok_or("the key file is cut off");
    let (n, e, d, q_inv, p, q) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let (d_p, d_q) = (remainder(d, &minus_one(p)), remainder(d, &minus_one(q)));
    let components = rsa::KeyPairComponents {
        public_key: rsa::PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: d_p.as_slice(),
        dQ: d_q.as_slice(),
        qInv: q_inv,
    };
    RsaKeyPair::from_components(&components).map(rsa_key).map_err(|error| format!("RSA key: {error}"))
}

/// A prime less one: primes are odd.
fn minus_one(prime: &[u8]) -> Vec<u8> {
    let mut bytes = prime.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last &= !1;
    }
    bytes
}

/// `value mod modulus` of big-endian numbers, bit by bit; without leading zeros.
fn remainder(value: &[u8], modulus: &[u8]) -> Vec<u8> {
    let mut rest = vec![0_u8; modulus.len() + 1];
    let modulus = [&[0], modulus].concat();
    for bit in value.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            let high = *byte >> 7;
            *byte = *byte << 1 | carry;
            carry = high;
        }
        if rest >= modulus {
            let mut borrow = false;
            for (byte, take) in rest.iter_mut().zip(&modulus).rev() {
                let (less, first) = byte.overflowing_sub(*take);
                let (less, second) = less.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (less, first || second);
            }
        }
    }
    let zeros = rest.iter().take_while(|b| **b == 0).count();
    rest.split_off(zeros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_right() {
        assert_eq!(remainder(&[0x01, 0x00], &[0x07]), [4]);
        assert_eq!(remainder(&[0xff, 0xff, 0xff], &[0x01, 0x00]), [0xff]);
        assert_eq!(remainder(&[6], &[7]), [6]);
        assert_eq!(remainder(&[7], &[7]), [0_u8; 0]);
    }

    #[test]
    fn texts_that_are_no_keys_say_so() {
        for text in
            ["", "-----BEGIN X-----", "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----"]
        {
            assert!(PrivateKey::parse(text).is_err(), "{text}");
        }
        let empty = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END", BASE64.encode(MAGIC));
        assert!(PrivateKey::parse(&empty).is_err());
    }

    /// An unencrypted key file as ssh-keygen writes it.
    fn ed25519_file(seed: &[u8; 32], public: &[u8]) -> String {
        let mut blob = Vec::new();
        put_string(&mut blob, b"ssh-ed25519");
        put_string(&mut blob, public);
        let mut private = [7_u32.to_be_bytes(), 7_u32.to_be_bytes()].concat();
        private.extend_from_slice(&blob);
        put_string(&mut private, &[seed, public].concat());
        put_string(&mut private, b"comment");
        private.extend(1..=8 - u8::try_from(private.len() % 8).unwrap());
        let mut data = MAGIC.to_vec();
        [&b"none"[..], b"none", b""].iter().for_each(|text| put_string(&mut data, text));
        data.extend_from_slice(&1_u32.to_be_bytes());
        put_string(&mut data, &blob);
        put_string(&mut data, &private);
        format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
            BASE64.encode(data)
        )
    }

    #[test]
    fn a_key_of_a_file_signs() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let public = pair.public_key().as_ref();
        let key = PrivateKey::parse(&ed25519_file(&[3; 32], public)).unwrap();
        let signature = key.sign(b"data", 0).unwrap();
        let mut reader = Reader(&signature);
        assert_eq!(reader.string(), Some(&b"ssh-ed25519"[..]));
        let verifier = signature::UnparsedPublicKey::new(&signature::ED25519, public);
        verifier.verify(b"data", reader.string().unwrap()).unwrap();
        // Its two halves disagree.
        assert!(PrivateKey::parse(&ed25519_file(&[4; 32], public)).is_err());
    }
}
