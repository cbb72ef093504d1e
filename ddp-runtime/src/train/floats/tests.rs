//! Tests of the encoding of floating-point numbers.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(f64);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Bound { least: f64, most: f64 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Plain {
    Nothing,
    One(f64),
    Two(f32, Option<f64>),
    Named { a: f64, name: String },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    best: f64,
    #[serde(flatten)]
    rest: BTreeMap<String, f64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    best: f64,
    small: f32,
    missing: Option<f64>,
    present: Option<f64>,
    nested: Vec<Option<Vec<f64>>>,
    pair: (i64, f64, String),
    by_class: BTreeMap<u32, f64>,
    by_name: BTreeMap<String, Newtype>,
    by_pair: BTreeMap<bool, Plain>,
    plain: Vec<Plain>,
    tagged: Tagged,
    flat: Flat,
    unit: (),
    text: String,
    letter: char,
}

const INF: f64 = f64::INFINITY;

fn everything() -> Everything {
    Everything {
        best: INF,
        small: f32::NEG_INFINITY,
        missing: None,
        present: Some(-INF),
        nested: vec![None, Some(vec![1.0, INF]), Some(vec![])],
        pair: (-3, -INF, "inf".into()),
        by_class: [(7, INF), (8, 0.5)].into(),
        by_name: [("a/b~c".to_owned(), Newtype(INF)), ("".to_owned(), Newtype(INF))].into(),
        by_pair: [(true, Plain::One(INF))].into(),
        plain: vec![
            Plain::Nothing,
            Plain::One(INF),
            Plain::Two(f32::INFINITY, None),
            Plain::Named { a: -INF, name: "NaN".into() },
            Plain::Named { a: 1.0, name: "NaN".into() },
        ],
        tagged: Tagged::Bound { least: -INF, most: 2.0 },
        flat: Flat { best: 1.0, rest: [("x".to_owned(), INF)].into() },
        unit: (),
        text: "-inf".into(),
        letter: 'x',
    }
}

fn through_text<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let (json, pointers) = encode(value).unwrap();
    let json: Value = serde_json::from_str(&json.to_string()).unwrap();
    decode(&json, &pointers).unwrap()
}

#[test]
fn floats_that_json_lacks_round_trip_at_any_depth() {
    assert_eq!(through_text(&everything()), everything());
    assert_eq!(through_text(&INF), INF);
    assert!(through_text(&f64::NAN).is_nan() && through_text(&f32::NAN).is_nan());
    assert_eq!(through_text(&(Some(1), None::<f64>, INF)), (Some(1), None, INF));
    assert_eq!(through_text(&Some(Newtype(-INF))), Some(Newtype(-INF)));
    let (json, pointers) = encode(&(INF, "inf", -INF)).unwrap();
    assert_eq!((json, pointers), (serde_json::json!(["inf", "inf", "-inf"]), vec!["/0".to_owned(), "/2".to_owned()]));
}

#[test]
fn floats_are_encoded_as_numbers_and_wrong_types_are_errors() {
    assert_eq!(through_text(&vec![1.5, 2.0]), [1.5, 2.0]);
    let (json, pointers) = encode(&vec![Some(INF), None]).unwrap();
    let err = decode::<Vec<f64>>(&json, &pointers).unwrap_err().to_string();
    assert!(err.contains("null"), "{err}");
    let err = decode::<Vec<String>>(&json, &pointers).unwrap_err().to_string();
    assert!(err.contains("floating point"), "{err}");
    let err = decode::<f64>(&Value::Null, &[]).unwrap_err().to_string();
    assert!(err.ends_with("saved NaN and infinite numbers as null"), "{err}");
    // A list that does not belong to the value.
    assert!(decode::<f64>(&Value::from("many"), &[String::new()]).is_err());
}
