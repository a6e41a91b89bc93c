//! Questions with evidence cut into units, and which units an answer needs: shop and loan cases
//! written for judging composition.

use crate::model::{ComposeRequest, ComposeSource};

#[derive(Clone, Copy)]
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
        let source = |(question, units): &(&str, &[&str])| ComposeSource {
            question: (*question).to_owned(),
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
        question: "我退了货，钱什么时候能到账？",
        sources: &[(
            "退货退款流程是怎样的？",
            &[
                "签收后七天内，商品未使用且包装完好的，可以申请退货。",
                "请在订单页点击“申请售后”，填写原因并上传照片。",
                "退货运费由买家承担，质量问题除外。",
                "仓库收到退货并验收后，退款会在三个工作日内原路退回。",
                "使用信用卡支付的，银行入账可能再需要两到五天。",
            ],
        )],
        needed: &[(0, 3)],
        fitting: &[(0, 4)],
    },
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
        question: "发票能开公司抬头吗？怎么开？",
        sources: &[
            (
                "如何开具发票？",
                &[
                    "本店支持开具增值税电子普通发票，抬头可以是个人或公司。",
                    "公司抬头需要填写税号。",
                    "在订单完成后，进入“我的订单—申请发票”提交即可。",
                    "电子发票一般在二十四小时内发送到您填写的邮箱。",
                ],
            ),
            (
                "会员积分有什么用？",
                &[
                    "每消费一元累积一个积分。",
                    "一百积分可以抵扣一元。",
                    "积分在次年十二月三十一日失效。",
                ],
            ),
        ],
        needed: &[(0, 0), (0, 2)],
        fitting: &[(0, 1), (0, 3)],
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
        question: "我想提前还款，要收违约金吗？",
        sources: &[
            (
                "可以提前还款吗？",
                &[
                    "贷款发放满一个月后，您可以随时申请提前还款。",
                    "提前结清不收取违约金，利息按实际使用天数计算。",
                    "部分提前还款每年最多两次，每次不少于一千元。",
                    "请在手机银行“贷款—提前还款”中操作。",
                ],
            ),
            (
                "逾期会怎样？",
                &[
                    "逾期后按合同利率的一点五倍计收罚息。",
                    "逾期记录会报送征信系统。",
                    "如有困难，请在到期前联系客服协商。",
                ],
            ),
        ],
        needed: &[(0, 1)],
        fitting: &[(0, 0)],
    },
    Case {
        question: "这个月还不上了，会上征信吗？",
        sources: &[
            (
                "逾期会怎样？",
                &[
                    "逾期后按合同利率的一点五倍计收罚息。",
                    "逾期记录会报送征信系统。",
                    "如有困难，请在到期前联系客服协商。",
                ],
            ),
            (
                "如何修改还款日？",
                &[
                    "每个自然年可以修改一次还款日。",
                    "修改当期账单已出的，从下一期起生效。",
                    "有逾期未还的，不能修改还款日。",
                ],
            ),
        ],
        needed: &[(0, 1)],
        fitting: &[(0, 0), (0, 2)],
    },
    Case {
        question: "贷款需要准备哪些材料？",
        sources: &[
            (
                "申请贷款需要什么？",
                &[
                    "申请人年龄须在二十二至五十五周岁之间。",
                    "请准备本人身份证、近六个月的银行流水和工作证明。",
                    "个体工商户还需要提供营业执照。",
                    "材料齐全的，一般在两个工作日内完成审批。",
                ],
            ),
            (
                "贷款额度和利率是多少？",
                &[
                    "最高额度为二十万元，以审批结果为准。",
                    "年化利率为百分之七点二起。",
                    "额度有效期为一年。",
                ],
            ),
        ],
        needed: &[(0, 1)],
        fitting: &[(0, 2), (0, 0)],
    },
    Case {
        question: "最多能借多少？利息高不高？",
        sources: &[
            (
                "贷款额度和利率是多少？",
                &[
                    "最高额度为二十万元，以审批结果为准。",
                    "年化利率为百分之七点二起。",
                    "额度有效期为一年。",
                ],
            ),
            (
                "申请贷款需要什么？",
                &[
                    "申请人年龄须在二十二至五十五周岁之间。",
                    "请准备本人身份证、近六个月的银行流水和工作证明。",
                    "材料齐全的，一般在两个工作日内完成审批。",
                ],
            ),
        ],
        needed: &[(0, 0), (0, 1)],
        fitting: &[],
    },
    Case {
        question: "衣服洗了一次就起球了，能换吗？",
        sources: &[
            (
                "质量问题怎么处理？",
                &[
                    "签收后三十天内出现质量问题的，可以免费换货或维修。",
                    "请拍下问题部位和洗水标的照片发给客服。",
                    "换货往返运费由本店承担。",
                    "人为损坏不在保修范围内。",
                ],
            ),
            (
                "衣物怎么洗涤？",
                &["羊毛衫请冷水手洗，不可机洗。", "深浅颜色请分开洗涤。", "晾晒时请避免阳光直射。"],
            ),
            (
                "尺码不合适怎么办？",
                &[
                    "签收后七天内可以免费换一次尺码。",
                    "换尺码的商品须保留吊牌。",
                    "缺货的尺码只能退款。",
                ],
            ),
        ],
        needed: &[(0, 0)],
        fitting: &[(0, 1), (0, 2), (0, 3)],
    },
    Case {
        question: "新疆发货吗？要加钱吗？",
        sources: &[
            (
                "配送范围和运费",
                &[
                    "江浙沪满五十元包邮，其他省份满九十九元包邮。",
                    "新疆、西藏地区可以发货，每单另收二十元运费。",
                    "港澳台和海外暂不支持配送。",
                    "默认使用中通快递，不支持指定快递。",
                ],
            ),
            (
                "多久发货？",
                &[
                    "现货商品在付款后四十八小时内发出。",
                    "预售商品以页面标注的时间为准。",
                    "大促期间发货可能延迟一到三天。",
                ],
            ),
        ],
        needed: &[(0, 1)],
        fitting: &[],
    },
    Case {
        question: "昨天付的款，怎么还没发货？",
        sources: &[
            (
                "多久发货？",
                &[
                    "现货商品在付款后四十八小时内发出。",
                    "预售商品以页面标注的时间为准。",
                    "大促期间发货可能延迟一到三天。",
                ],
            ),
            (
                "怎么取消订单？",
                &[
                    "未发货的订单可以在订单页直接取消。",
                    "已发货的订单请拒收或签收后申请退货。",
                    "取消后优惠券会退回账户，已过期的除外。",
                ],
            ),
        ],
        needed: &[(0, 0)],
        fitting: &[(0, 1), (0, 2)],
    },
    Case {
        question: "手机号换了，怎么改绑定的号码？",
        sources: &[
            (
                "如何更换绑定手机号？",
                &[
                    "请在“设置—账户安全—更换手机号”中操作。",
                    "原手机号能接收短信的，输入验证码即可更换。",
                    "原手机号已停用的，需要上传身份证进行人脸核验。",
                    "更换后二十四小时内不能提现。",
                ],
            ),
            (
                "忘记登录密码怎么办？",
                &[
                    "在登录页点击“忘记密码”，通过短信验证码重设。",
                    "密码须为八至二十位，含字母和数字。",
                    "连续输错五次，账户将锁定两小时。",
                ],
            ),
        ],
        needed: &[(0, 0)],
        fitting: &[(0, 1), (0, 2), (0, 3)],
    },
    Case {
        question: "How long does a refund take?",
        sources: &[(
            "How do returns and refunds work?",
            &[
                "You may return unused items within 14 days of delivery.",
                "Start a return from your order page and print the label.",
                "Return shipping is free for defective items only.",
                "Once we receive the item, we refund you within five business days.",
                "Gift cards cannot be refunded.",
            ],
        )],
        needed: &[(0, 3)],
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
