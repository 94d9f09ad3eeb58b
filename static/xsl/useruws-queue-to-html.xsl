<?xml version="1.0" encoding="UTF-8"?>
<!-- The queue as a page, at {base}/queue: which jobs wait, and why; operators pause it. -->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:q="urn:uwsd:queue"
    exclude-result-prefixes="q">

  <xsl:import href="page.xsl"/>

  <xsl:template match="/q:queue">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="'The queue'"/>
      <xsl:with-param name="root" select="'./'"/>
      <xsl:with-param name="crumbs"><li><a href="queue" aria-current="page">The queue</a></li></xsl:with-param>
      <xsl:with-param name="main">
        <h1>The queue</h1>
        <p><xsl:value-of select="concat(@running, ' running, ', count(q:job), ' waiting')"/><xsl:if test="@more"> and more</xsl:if></p>
        <xsl:for-each select="q:paused">
          <form method="post" action="queue">
            <p>
              <xsl:choose>
                <xsl:when test=". != ''"><xsl:value-of select="concat('The queue of ', .)"/></xsl:when>
                <xsl:otherwise>The queue</xsl:otherwise>
              </xsl:choose>
              is paused since <xsl:call-template name="time"><xsl:with-param name="of" select="@since"/></xsl:call-template>.
            </p>
            <xsl:if test="../@may">
              <input type="hidden" name="SERVICE" value="{.}"/>
              <button name="ACTION" value="RESUME">
                <xsl:value-of select="'Go on'"/><xsl:if test=". != ''"><xsl:value-of select="concat(' with ', .)"/></xsl:if>
              </button>
            </xsl:if>
          </form>
        </xsl:for-each>
        <xsl:if test="@may">
          <form class="filter" method="post" action="queue" aria-label="Pause">
            <div>
              <label for="service">Start no more jobs</label>
              <select id="service" name="SERVICE">
                <option value="">of any service</option>
                <xsl:for-each select="q:service"><option value="{.}"><xsl:value-of select="concat('of ', .)"/></option></xsl:for-each>
              </select>
            </div>
            <button name="ACTION" value="PAUSE">Pause</button>
          </form>
        </xsl:if>
        <xsl:if test="q:job">
          <div class="scroll" role="region" aria-label="Table of jobs that wait" tabindex="0">
            <table>
              <thead>
                <tr>
                  <th scope="col">Place</th><th scope="col">Job</th><th scope="col">Service</th><th scope="col">Owner</th>
                  <th scope="col">Since</th><th scope="col">Why it waits</th>
                </tr>
              </thead>
              <tbody><xsl:apply-templates select="q:job"/></tbody>
            </table>
          </div>
        </xsl:if>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="q:job">
    <tr>
      <td class="number"><xsl:value-of select="@place"/></td>
      <th scope="row"><a class="id" href="./{@service}/async/{@job}"><xsl:value-of select="@job"/></a></th>
      <td><xsl:value-of select="@service"/></td>
      <td class="value"><xsl:value-of select="@owner"/></td>
      <td><xsl:if test="@since"><xsl:call-template name="time"><xsl:with-param name="of" select="@since"/></xsl:call-template></xsl:if></td>
      <td class="value"><xsl:value-of select="."/></td>
    </tr>
  </xsl:template>

</xsl:stylesheet>
