//! Questions with evidence cut into units, and which units an answer needs: few, since judging one
//! takes a real model some seconds.

use crate::model::{ComposeRequest, ComposeSource, Written};

pub(crate) struct Case {
    pub(crate) question: &'static str,
    pub(crate) sources: &'static [(&'static str, &'static [&'static str])],
    /// Units without which the reply does not answer, as (source, unit).
    pub(crate) needed: &'static [(usize, usize)],
    /// Units that may stand beside them; all others are irrelevant.
    pub(crate) fitting: &'static [(usize, usize)],
}

impl Case {
    pub(crate) fn request(&self) -> ComposeRequest {
        let source = |(_, units): &(&str, &[&str])| ComposeSource {
            written: Written::AtLarge,
            units: units.iter().map(|u| (*u).to_owned()).collect(),
        };
        ComposeRequest {
            question: self.question.to_owned(),
            sources: self.sources.iter().map(source).collect(),
            max_chars: 160,
        }
    }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        question: "退货的邮费谁出？",
        sources: &[(
            "退货退款流程是怎样的？",
            &[
                "签收后七天内，商品未使用且包装完好的，可以申请退货。",
                "请在订单页点击“申请售后”，填写原因并上传照片。",
                "退货运费由买家承担，质量问题除外。",
                "仓库收到退货并验收后，退款会在三个工作日内原路退回。",
            ],
        )],
        needed: &[(0, 2)],
        fitting: &[],
    },
    Case {
        question: "积分会过期吗？",
        sources: &[
            (
                "会员积分有什么用？",
                &[
                    "每消费一元累积一个积分。",
                    "一百积分可以抵扣一元。",
                    "积分在次年十二月三十一日失效。",
                    "退货时，相应的积分会被扣回。",
                ],
            ),
            (
                "优惠券怎么用？",
                &[
                    "下单时在结算页选择优惠券即可抵扣。",
                    "优惠券不能与满减活动同时使用。",
                    "优惠券过期后不能恢复。",
                ],
            ),
        ],
        needed: &[(0, 2)],
        fitting: &[],
    },
    Case {
        question: "密码输错太多次被锁了，多久能解开？",
        sources: &[(
            "忘记登录密码怎么办？",
            &[
                "在登录页点击“忘记密码”，通过短信验证码重设。",
                "密码须为八至二十位，含字母和数字。",
                "连续输错五次，账户将锁定两小时。",
                "为了安全，请勿把验证码告诉他人。",
            ],
        )],
        needed: &[(0, 2)],
        fitting: &[(0, 0)],
    },
];
