//! Follow-up questions made to stand alone with the conversation before them, by rules.

use std::sync::LazyLock;

use regex::Regex;

use crate::base::limits;
use crate::base::pattern::pattern;
use crate::base::text::{is_han, prefix_chars};
use crate::base::words;
use crate::domain::message::{Role, Utterance};

mod candidates;
mod content;
mod topic;

use content::{
    denies, has_bare_verb, is_attribute, is_frame, is_latin, leans, names_matter, own_content,
    shares_topic,
};
use topic::{Exchange, TOPIC_CHARS, asks, frame_of, place_in};

/// What to search with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standalone {
    pub text: String,
    pub rewritten: bool,
    /// Which rule made it (`followup.pronoun`).
    pub rule: Option<&'static str>,
}

impl Standalone {
    fn untouched(text: &str) -> Self {
        Self { text: text.to_owned(), rewritten: false, rule: None }
    }

    fn made(text: String, rule: &'static str) -> Self {
        Self { text, rewritten: true, rule: Some(rule) }
    }
}

// What opens a message without being part of the question.
pattern!(
    FILLER = r"^(?:(?:请问一?下?|你好|您好|亲|嗯+|哦+|噢|喔|好的|好吧|ok\b|额|呃|哎|唉|是的|对了|(?:好|行|对|啊)[,，。\s]|明白了?|知道了|谢谢|那个[,，]|我想问一?下?|想问一?下?|问一?下|再问一?下?|麻烦问一?下?|咨询一?下?|那请问)[,，。.!！~\s]*)+"
);
pattern!(
    MARKER = r"^(?:那么|那|然后|还有|另外|以及|并且|而且|但是|但|可是|不过|所以|还是|如果|要是|and|then|so|but|what about|how about|what if)[,，\s]*"
);
pattern!(TAIL = r"[?？。.!！~～,，、\s]+$");
pattern!(
    NEW_OBJECT = r"^(?:那么?|然后|还有|另外)?[,，\s]*(?:如果是?|要是|换成|换了|那)?(?P<x>[^,，。?？!！]{1,10}?)(?:的话)?(?:呢|的呢|又呢|怎么样呢|也(?:可以|能|行|支持|一样|是|要|有|算)(?:的|这样|退)?(?:吗|么))[?？。.!！~\s]*$|^(?i:(?:and )?(?:what|how) about) (?:the |a |an )?(?P<y>[a-z0-9 ]{2,30})\W*$"
);
// Words that hold a pronoun without being one come first, so that they win.
pattern!(
    PRONOUN = r"[我你您他她它到在]这|其[他它]|吉他|他[人行乡国]|维他|这[个]?(?:里|边|儿|么|些天|几天|两天|次|时候|月|周|星期|礼拜|年|天|阵子|会儿|期|样)|那[个]?(?:里|边|儿|么|些天|几天|时候|月|天|年|样|阵子|会儿|就|我|你|要|怎|为|如|能|可|是|有|会|还)|(?P<p>它们?|他们?|她们?|(?:这|那)(?:(?:一?个|款|种|件|双|台|套|张|本|部|首|家|项|笔|条|些)(?:人|家伙|东西|游戏|电影|电视剧|书|歌|剧|动漫|小说|产品|商品|活动|业务|功能|服务|套餐|卡|券)?|(?:人|家伙|东西|游戏|电影|电视剧|书|歌|剧|动漫|小说|产品|商品|活动|业务|功能|服务|套餐|卡|券))|这(?:怎|要|能|可|是|有|会|多|好|为|需|算|还|支持|什么)|\b(?:it|they|them|this one|that one)\b)"
);
pattern!(PRONOUN_VERB = r"^这(?P<v>怎|要|能|可|是|有|会|多|好|为|需|算|还|支持|什么)$");
pattern!(WEATHER = "天气|气温|温度|空气|湿度|下雨|下雪|多云");
// A place pointed at.
pattern!(HERE = "[这那](?:里|儿|边)|当地");
// Asks for more of the same (“还有呢”, “还有别的吗”).
pattern!(AGAIN = "^(?:那么?)?(?:还有|另外还有|除此之外|其[他它]|别的)");
pattern!(HAVE = "(?P<before>^|[^没还只所])有(?P<after>[^时点些的])");
pattern!(MODAL = "能|可以|支持|会|需要|要|算|有");
pattern!(
    DOING = r"^(?:开通|办理?|申请|购买|买|取消|查询?|修改|更改|关闭|使用|注销|退|换|领取?|看|找)(?P<rest>.{2,})$"
);

/// Makes `text` a question that can be searched for without what was said before.
///
/// Leaves a message alone that has a topic of its own, or nothing to lean on.
pub fn standalone(text: &str, context: &[Utterance]) -> Standalone {
    let recent = &context[context.len().saturating_sub(limits::CONTEXT_TURNS)..];
    resolve(text, recent)
}

/// True when nothing is left besides question words and particles (“可以吗”, “为什么”).
pub fn is_empty(text: &str) -> bool {
    is_frame(&core_of(text))
}

fn resolve(text: &str, context: &[Utterance]) -> Standalone {
    let core = core_of(text);
    if core.is_empty() {
        return Standalone::untouched(text);
    }
    let Some(exchange) = last_exchange(context) else { return Standalone::untouched(text) };
    new_object(&core, &exchange)
        .or_else(|| pronoun(&core, &exchange))
        .or_else(|| leaning(&core, &exchange))
        .unwrap_or_else(|| Standalone::untouched(text))
}

/// What the customer asked last, itself made to stand alone, with the reply to it; else what was
/// said last.
fn last_exchange(context: &[Utterance]) -> Option<Exchange> {
    let worth = |u: &Utterance| !core_of(&u.text).is_empty();
    let bounded = |at: usize| prefix_chars(&context[at].text, limits::QUESTION_CHARS);
    if let Some(at) = context.iter().rposition(|u| u.role == Role::Customer && worth(u)) {
        let asked = core_of(&resolve(bounded(at), &context[..at]).text);
        let replied = (at + 1..context.len()).next_back().map(bounded).unwrap_or_default();
        return Some(Exchange { asked, replied: replied.to_owned() });
    }
    let said = context.iter().rev().find(|u| worth(u))?;
    let asked = core_of(prefix_chars(&said.text, TOPIC_CHARS * 2));
    Some(Exchange { asked, replied: String::new() })
}

/// Without greetings before and marks behind.
fn core_of(text: &str) -> String {
    let text = text.trim();
    let body = FILLER.find(text).map_or(text, |filler| &text[filler.end()..]);
    TAIL.replace(body, "").into_owned()
}

/// “X呢”: the last question again, about X.
fn new_object(core: &str, exchange: &Exchange) -> Option<Standalone> {
    let captures = NEW_OBJECT.captures(core)?;
    let object = captures.name("x").or_else(|| captures.name("y"))?.as_str().trim();
    let names_something =
        own_content(object) >= 1 || CLASSES.iter().any(|class| class.is_match(object));
    let names_something = names_something && !asks(object);
    let points = PRONOUN.captures(object).is_some_and(|c| c.name("p").is_some());
    if !names_something || points || denies(object) {
        return None;
    }
    let time = CLASSES.first().is_some_and(|times| times.is_match(object));
    let part = !time && is_attribute(object);
    // An attribute or a day is asked of the same thing; anything else takes its place.
    let replaced = replace_kin(&exchange.asked, object)
        .or_else(|| replace_subject(&exchange.asked, object).filter(|_| !part && !time));
    let text = replaced.unwrap_or_else(|| {
        let topic = exchange.topic(object).unwrap_or_else(|| exchange.asked.clone());
        let object = object.trim_end_matches('的');
        let weather = WEATHER.find(&exchange.asked).or_else(|| WEATHER.find(&exchange.replied));
        match (exchange.place(), weather) {
            (Some(place), Some(weather)) if time => {
                format!("{place}{object}的{}", weather.as_str())
            }
            _ if part && !topic.is_ascii() => format!("{topic}的{object}"),
            _ => join(&topic, object),
        }
    });
    Some(Standalone::made(text, "followup.new_object"))
}

/// Puts the object where the question names its kin: a member of the same class, or a word of
/// the same length with the same end (退货 → 换货, 普通会员 → 黄金会员).
fn replace_kin(previous: &str, object: &str) -> Option<String> {
    for class in CLASSES.iter() {
        if class.is_match(object)
            && let Some(old) = class.find(previous)
        {
            return Some(format!("{}{object}{}", &previous[..old.start()], &previous[old.end()..]));
        }
    }
    // A member of a class has no kin but the class (“上海天气” names no day).
    if CLASSES.iter().any(|class| class.is_match(object)) {
        return None;
    }
    let wanted: Vec<char> = object.chars().collect();
    let chars: Vec<(usize, char)> = previous.char_indices().collect();
    // One shared character makes kin of words of two; longer ones must share two.
    let end = if wanted.len() > 2 { 2 } else { 1 };
    let shared = wanted.get(wanted.len().checked_sub(end)?..).filter(|_| wanted.len() > 1)?;
    let edges = word_edges(previous);
    let window = chars.windows(wanted.len()).find(|window| {
        let end = window.iter().rev().zip(shared.iter().rev());
        let whole = window.first().is_some_and(|(at, _)| edges.contains(at))
            && window.last().is_some_and(|(at, c)| edges.contains(&(at + c.len_utf8())));
        whole
            && end.clone().all(|((_, old), new)| old == new)
            && window.iter().all(|(_, c)| is_han(*c))
    })?;
    let start = window.first()?.0;
    let end = window.last().map(|(at, c)| at + c.len_utf8())?;
    Some(format!("{}{object}{}", &previous[..start], &previous[end..]))
}

/// Where words begin and end, bytes.
fn word_edges(text: &str) -> Vec<usize> {
    let mut at = 0;
    let ends = words::cut(text).into_iter().map(|word| {
        at += word.len();
        at
    });
    std::iter::once(0).chain(ends).collect()
}

static CLASSES: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        "今天|明天|后天|昨天|今晚|明晚|周[一二三四五六日末]|星期[一二三四五六日天]|周末|节假日|工作日|春节|国庆|元旦|上午|下午|晚上|早上",
        "北京|上海|广州|深圳|杭州|南京|成都|重庆|武汉|西安|天津|苏州|长沙|郑州|青岛|大连|厦门|新疆|西藏|香港|澳门|台湾|海南|云南|广东|浙江|江苏|四川|东北|偏远地区|国外|海外|国内",
        "微信|支付宝|银行卡|信用卡|储蓄卡|花呗|余额|现金",
        "顺丰|中通|圆通|申通|韵达|京东|邮政|极兔|ems",
        "红色|黑色|白色|蓝色|绿色|黄色|粉色|灰色|紫色|棕色|银色|金色",
        r"[大中小]号|\b(?:xxl|xl|xs|l|m|s)(?:码|\b)|\d{2}码",
        "安卓|苹果|android|ios|iphone|华为|小米|电脑|手机|平板",
        r"\d+(?:元|块|天|个月|年|岁|期|件|斤|克|升|瓦|寸|g)",
    ]
    .iter()
    .map(|class| Regex::new(class).expect("a constant expression"))
    .collect()
});

/// Puts the object in the place of what is asked about: “会员费多少钱” → “年卡多少钱”.
///
/// A yes-or-no question gives up its subject only to something that looks like a noun.
fn replace_subject(previous: &str, object: &str) -> Option<String> {
    let frame = frame_of(previous)?;
    let open_question = frame.as_str().chars().count() > 1;
    if open_question {
        return Some(format!("{object}{}", &previous[frame.start()..]));
    }
    let modal = MODAL.find(previous).filter(|modal| modal.start() > 0)?;
    (object.chars().count() > 2).then(|| format!("{object}{}", &previous[modal.start()..]))
}

/// Both, for a search that weighs words.
fn join(topic: &str, rest: &str) -> String {
    let latin = topic.is_ascii() || rest.is_ascii();
    format!("{topic}{}{rest}", if latin { " " } else { "" })
}

/// A pronoun gives way to the topic.
fn pronoun(core: &str, exchange: &Exchange) -> Option<Standalone> {
    let Some(found) = PRONOUN.captures_iter(core).find_map(|captures| captures.name("p")) else {
        return here(core, exchange);
    };
    let before = &core[..found.start()];
    // What it stands for may have been said in the same breath.
    if own_content(before) > 3 || exchange.named_in(before) {
        return None;
    }
    let topic = exchange.topics(core)?;
    let verb = PRONOUN_VERB.captures(found.as_str()).and_then(|c| c.name("v"));
    let kept = verb.map_or("", |verb| verb.as_str());
    let text = format!("{before}{topic}{kept}{}", &core[found.end()..]);
    Some(Standalone::made(text, "followup.pronoun"))
}

/// “这里” gives way to the place that was named.
fn here(core: &str, exchange: &Exchange) -> Option<Standalone> {
    let found = HERE.find(core)?;
    let place = exchange.place().filter(|_| place_in(core).is_none())?;
    let text = format!("{}{place}{}", &core[..found.start()], &core[found.end()..]);
    Some(Standalone::made(text, "followup.place"))
}

/// “还有呢”: the last question again, for more.
fn again(core: &str, exchange: &Exchange) -> Option<Standalone> {
    let rest = &core[AGAIN.find(core)?.end()..];
    let asked = exchange.asked.trim_end_matches(['吗', '呢', '么', '啊', '呀', '吧']);
    let short = asked.chars().nth(TOPIC_CHARS + 6).is_none();
    if !is_frame(rest) || !short || !HAVE.is_match(asked) {
        return None;
    }
    let text = HAVE.replace(asked, "${before}还有${after}").into_owned();
    Some(Standalone::made(text, "followup.again"))
}

/// A question about the weather takes the place along, whatever else it names.
fn weather(rest: &str, exchange: &Exchange) -> Option<Standalone> {
    let days = CLASSES.first().is_some_and(|times| times.is_match(rest));
    let before = WEATHER.is_match(&exchange.asked) || WEATHER.is_match(&exchange.replied);
    if !(WEATHER.is_match(rest) || days && before) {
        return None;
    }
    let place = exchange.place().filter(|_| place_in(rest).is_none())?;
    Some(Standalone::made(format!("{place}{rest}"), "followup.place"))
}

// A reply that asks back, and a message that is no question itself.
pattern!(QUESTION = "吗|呢|么|什么|啥|谁|哪|怎么|几|多少|是不是|有没有|[?？]");
// What is said of a thing that stands before, unsaid (“应该是限量版”).
pattern!(
    PREDICATE = r"^(?:我|你|应该|可能|也|就|不|都|原来|明明|确实|当然|其实|这|那|可|还|只|算|好像|大概|估计|肯定|对|嗯|哦|啊|额)*(?:是[^想要]|像|属于|叫)"
);
/// Longest answer to a question asked back, characters.
const ANSWER_CHARS: usize = 8;
/// Longest statement without a subject, characters.
const PREDICATE_CHARS: usize = 10;

/// A message without a topic of its own takes the last one.
fn leaning(core: &str, exchange: &Exchange) -> Option<Standalone> {
    let rest = MARKER.replace(core, "");
    let marked = rest.len() < core.len();
    if let Some(made) = again(core, exchange).or_else(|| weather(&rest, exchange)) {
        return Some(made);
    }
    if exchange.named_in(&rest)
        || shares_topic(&rest, &exchange.asked)
        || shares_topic(&rest, &exchange.replied)
    {
        return None;
    }
    let states = !is_latin(&rest) && !names_matter(&rest) && !QUESTION.is_match(&rest);
    let shorter = |most: usize| states && rest.chars().nth(most).is_none();
    let rule = if leans(&rest, marked) {
        if marked { "followup.marker" } else { "followup.elided" }
    } else if shorter(ANSWER_CHARS) && QUESTION.is_match(&exchange.replied) {
        "followup.answer"
    } else if shorter(PREDICATE_CHARS) && PREDICATE.is_match(&rest) {
        "followup.predicate"
    } else {
        return None;
    };
    let text = match exchange.topics(&rest) {
        Some(topic) if rest.contains(&topic) => return None,
        Some(topic) => {
            // “开通会员” + “怎么取消”: the new verb replaces the old one.
            let named = DOING.captures(&topic).and_then(|c| c.name("rest"));
            let kept =
                named.filter(|_| has_bare_verb(&rest)).map_or(topic.as_str(), |m| m.as_str());
            join(kept, &rest)
        }
        None if exchange.asked.is_ascii() => join(&exchange.asked, &rest),
        None => format!("{}，{rest}", exchange.asked),
    };
    Some(Standalone::made(text, rule))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn customer(text: &str) -> Utterance {
        Utterance { role: Role::Customer, text: text.to_owned() }
    }

    fn agent(text: &str) -> Utterance {
        Utterance { role: Role::Agent, text: text.to_owned() }
    }

    #[test]
    fn leaning_questions_are_made_to_stand() {
        for (previous, text, expected) in [
            ("退货要几天", "那换货呢", "换货要几天"),
            ("顺丰多久能到", "中通呢？", "中通多久能到"),
            ("今天能发货吗", "明天呢", "明天能发货吗"),
            ("会员费多少钱", "那年卡呢", "年卡多少钱"),
            ("充电宝能带上飞机吗", "打火机呢", "打火机能带上飞机吗"),
            ("电影票能退吗", "那改签呢", "电影票改签"),
            ("普通会员多少钱", "黄金会员呢", "黄金会员多少钱"),
            ("do you ship to canada", "what about mexico?", "do you ship to canada mexico"),
            ("自动续费是什么", "怎么取消", "自动续费怎么取消"),
            ("怎么开通会员", "怎么取消呢", "会员怎么取消呢"),
            ("退货怎么弄", "要多久", "退货要多久"),
            ("信用卡怎么还款", "要手续费吗", "信用卡还款要手续费吗"),
            ("请问积分怎么用", "它会过期吗", "积分会过期吗"),
            ("蓝牙耳机多少钱", "这个支持无线充电吗", "蓝牙耳机支持无线充电吗"),
            (
                "What is the return policy",
                "How long does it take?",
                "What is the return policy How long does it take",
            ),
        ] {
            let found = standalone(text, &[customer(previous), agent("好的，请看说明。")]);
            assert_eq!((found.text.as_str(), found.rewritten), (expected, true), "{text}");
        }
    }

    #[test]
    fn a_question_of_its_own_is_left_alone() {
        let context = [customer("退货要几天"), agent("7天内。")];
        for text in [
            "运费谁出",
            "发票怎么开",
            "怎么修改收货地址，我填错了小区",
            "我想注销账号",
            "这个月的账单什么时候出",
            "How do I change my shipping address?",
            "你好",
        ] {
            let found = standalone(text, &context);
            assert_eq!((found.text.as_str(), found.rewritten), (text, false));
        }
        assert!(!standalone("怎么取消", &[]).rewritten);
    }

    #[test]
    fn answers_and_statements_lean_on_what_was_asked() {
        for (previous, reply, text, expected) in [
            ("怎么退款", "请问是哪种商品？", "生鲜", "退款生鲜"),
            ("这款耳机能退吗", "拆封的耳机不能退", "那没拆呢", "耳机没拆呢"),
            ("会员有什么权益", "免运费", "还有呢", "会员还有什么权益"),
            ("怎么退货", "点申请售后，选择退货", "那运费呢", "退货运费"),
            ("手机壳有黑色吗", "有的亲", "白色呢", "手机壳有白色吗"),
            ("空调怎么安装", "师傅上门安装空调", "要收费吗", "空调要收费吗"),
            ("上海天气", "上海今天多云", "后天呢", "上海后天的天气"),
            ("延长保修是什么", "一种服务", "是免费的", "保修是免费的"),
        ] {
            let found = standalone(text, &[customer(previous), agent(reply)]);
            assert_eq!((found.text.as_str(), found.rewritten), (expected, true), "{text}");
        }
        let context = [customer("怎么退款"), agent("请问是哪种商品？")];
        assert!(!standalone("我要投诉你们", &context).rewritten);
    }

    #[test]
    fn a_chain_of_follow_ups_is_followed() {
        let context =
            [customer("退货要几天"), agent("7天。"), customer("那换货呢"), agent("15天。")];
        assert_eq!(standalone("怎么申请", &context).text, "换货怎么申请");
    }

    #[test]
    fn empty_questions_are_known() {
        assert!(is_empty("可以吗"));
        assert!(is_empty("为什么？"));
        assert!(!is_empty("退款"));
        assert!(!is_empty("怎么取消"));
        assert!(!is_empty("how much"));
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_untouched_without_context(text in "\\PC{0,40}|[那这它呢吗怎么退货要几天还有然后]{0,20}", previous in "\\PC{0,30}|[退货要几天怎么吗]{0,12}") {
            let alone = standalone(&text, &[]);
            prop_assert_eq!((alone.text.as_str(), alone.rewritten), (text.as_str(), false));
            let found = standalone(&text, &[customer(&previous)]);
            prop_assert_eq!(found.rewritten, found.rule.is_some());
        }
    }
}
